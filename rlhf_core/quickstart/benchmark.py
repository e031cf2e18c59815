"""The quickstart's benchmark: which of four sentences restates a request.

The four differ in verb and object alone, so that likelihood tells whether a model has read the
request. The rows are in rlhf_core/evaluation/benchmarks/tasks/quickstart_subject.
"""

from random import Random

from rlhf_core.quickstart.language import LEADS, OBJECTS, VERBS, Request, sample_prompt

ITEMS = 240  # of the 384 (verb, object) combinations, each at most once
BenchmarkRow = dict[str, str | list[str] | int]


def benchmark_rows() -> list[BenchmarkRow]:
    """Return the items: {request, sentences, answer}, the answer as the number of its sentence.

    One sentence has the request's verb and object; the others have another verb, another object, or
    both.
    """
    rng = Random("quickstart/benchmark")  # text seeds go through SHA-512
    requests = [Request(verb, thing) for verb in VERBS for thing in OBJECTS]
    return [_row(rng, request) for request in rng.sample(requests, ITEMS)]


def _row(rng: Random, request: Request) -> BenchmarkRow:
    verb = rng.choice([word for word in VERBS if word != request.verb])
    thing = rng.choice([word for word in OBJECTS if word != request.object])
    offered = [
        request,
        Request(verb, request.object),
        Request(request.verb, thing),
        Request(verb, thing),
    ]
    order, lead = rng.sample(range(4), 4), rng.choice(LEADS)
    return {
        "request": sample_prompt(rng, request),
        "sentences": [lead.format(**offered[k]._asdict()) for k in order],
        "answer": order.index(0),
    }

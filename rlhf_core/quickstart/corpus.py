"""The quickstart's files: demonstrations, comparisons, feedback and prompts.

The same seeds give the same bytes. Held-out files ask for (verb, object) combinations that no
training file holds, so that memorising does not help.
"""

import json
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from random import Random

from rlhf_core.quickstart.annotators import VOTES, thumb, votes_for_first
from rlhf_core.quickstart.language import (
    OBJECTS,
    VERBS,
    Request,
    distort,
    replace_subject,
    restate,
    sample_prompt,
    sample_reply,
)
from rlhf_core.quickstart.utility import utility

SIZES = {
    "demonstrations_train": 1500,
    "demonstrations_heldout": 300,
    "comparisons_train": 6000,
    "comparisons_heldout": 600,
    "feedback_train": 4000,
    "feedback_heldout": 500,
    "prompts_train": 2000,
    "prompts_heldout": 256,
}
HELDOUT_SHARE = 0.2  # of the (verb, object) combinations
# of the compared replies: a reward model that never saw a cheap trick rewards it
DISTORTED_SHARE = 0.35
# of the comparisons: without them a reward model hardly notices the subject of a reply
CONTRASTED_SHARE = 0.2
RESTATED_FIRST = 2500  # of the base model's conversations
RESTATED_SHARE = 0.2  # of the later ones

CorpusRow = dict[str, str | int | bool]


def write_files(folder: Path, *, seed: int, split_seed: int) -> None:
    """Write `NAME.jsonl` for every name in SIZES into `folder`.

    split_seed decides the held-out files and which requests they have; seed the training files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in corpus(seed, split_seed).items():
        (folder / f"{name}.jsonl").write_text(
            "".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8"
        )


def corpus(seed: int, split_seed: int) -> dict[str, list[CorpusRow]]:
    """Return the rows of every file, by its name.

    A row is {prompt, response}, {prompt, chosen, rejected, votes_for, votes_against}, {prompt,
    completion, label} or {prompt}.
    """
    make = {
        "demonstrations": _demonstration,
        "comparisons": _comparison,
        "feedback": _feedback,
        "prompts": _prompt,
    }
    train, heldout = split_requests(split_seed)
    files = {}
    for name, size in SIZES.items():
        kind, split = name.split("_")
        requests, chosen = (train, seed) if split == "train" else (heldout, split_seed)
        rng = Random(f"{chosen}/{name}")  # text seeds go through SHA-512: the same in each process
        files[name] = _distinct(rng, make[kind], requests, size)
    return files


def split_requests(split_seed: int) -> tuple[list[Request], list[Request]]:
    """Return the training and the held-out (verb, object) combinations.

    Every verb and every object occurs in both.
    """
    requests = [Request(verb, thing) for verb in VERBS for thing in OBJECTS]
    rng = Random(f"{split_seed}/split")
    offsets = rng.sample(range(len(OBJECTS)), len(OBJECTS))
    # A Latin-square pattern: each verb loses its share of objects, and each object its share of
    # verbs.
    every = round(1 / HELDOUT_SHARE)
    heldout = {
        r for r in requests if (VERBS.index(r.verb) + offsets[OBJECTS.index(r.object)]) % every == 0
    }
    return [r for r in requests if r not in heldout], [r for r in requests if r in heldout]


def raw_text(seed: int, split_seed: int) -> Iterator[tuple[str, str]]:
    """Yield (prompt, reply) on training combinations without end; most replies are poor.

    The base model learns the language from them. The first replies only restate the request, which
    teaches a small model early to look at the question.
    """
    rng = Random(f"{seed}/raw")
    train, _ = split_requests(split_seed)
    for position in count():
        request = rng.choice(train)
        prompt = sample_prompt(rng, request)
        if position < RESTATED_FIRST or rng.random() < RESTATED_SHARE:
            yield prompt, restate(rng, request)
        else:
            yield prompt, sample_reply(rng, request, quality=rng.random() ** 2)


def _distinct(
    rng: Random, make: Callable[[Random, Request], CorpusRow], requests: list[Request], size: int
) -> list[CorpusRow]:
    rows: dict[str, CorpusRow] = {}
    while len(rows) < size:
        row = make(rng, rng.choice(requests))
        rows.setdefault(json.dumps(row), row)
    return list(rows.values())


def _prompt(rng: Random, request: Request) -> CorpusRow:
    return {"prompt": sample_prompt(rng, request)}


def _demonstration(rng: Random, request: Request) -> CorpusRow:
    prompt = sample_prompt(rng, request)
    return {"prompt": prompt, "response": sample_reply(rng, request, quality=rng.uniform(0.3, 0.8))}


def _compared_reply(rng: Random, request: Request) -> str:
    reply = sample_reply(rng, request, quality=rng.random())
    return distort(rng, reply) if rng.random() < DISTORTED_SHARE else reply


def _feedback(rng: Random, request: Request) -> CorpusRow:
    """Return a row of one reply with the label that one annotator gives it."""
    prompt = sample_prompt(rng, request)
    reply = _compared_reply(rng, request)
    return {
        "prompt": prompt,
        "completion": reply,
        "label": thumb(rng, reply, utility(request, reply)),
    }


def _comparison(rng: Random, request: Request) -> CorpusRow:
    """Return a row of two different replies; the majority of the votes decides the chosen one.

    Votes against the majority stay in the row.
    """
    prompt = sample_prompt(rng, request)
    first = second = _compared_reply(rng, request)
    if rng.random() < CONTRASTED_SHARE:
        second = replace_subject(rng, request, first)
    while second == first:
        second = _compared_reply(rng, request)
    votes = votes_for_first(
        rng, (first, second), (utility(request, first), utility(request, second))
    )
    chosen, rejected = (first, second) if votes > VOTES / 2 else (second, first)
    votes = max(votes, VOTES - votes)
    return {
        "prompt": prompt,
        "chosen": chosen,
        "rejected": rejected,
        "votes_for": votes,
        "votes_against": VOTES - votes,
    }

"""Label pairs without people: by a judge, or by a function that stands in for annotators.

The votes have the form that people's votes have, so that what follows does not tell them apart.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial

from rlhf_core.config.stage_configs import LabelVotesStageConfig
from rlhf_core.errors import BadInput
from rlhf_core.judging.functions import answers, conversation, with_messages
from rlhf_core.judging.judge import load_judge
from rlhf_core.judging.verdicts import AskJudge, compare
from rlhf_core.labels.outcome import lines
from rlhf_core.labels.votes import CHOICES, JUDGE, Choice, LabelPair, Vote, read_pairs
from rlhf_core.named_functions import load_function
from rlhf_core.rundir import Output, RunDir, StageSpec, write_atomically

FILE = "votes.jsonl"
ROLE = "function of annotators"
_OUTCOMES: dict[float | None, Choice] = {1.0: "a", 0.5: "same", 0.0: "b", None: "cannot_judge"}

AnnotatorsFunction = Callable[..., list[dict[str, str]]]
"""(prompts, replies_a, replies_b, seed=) -> for each pair the choices by annotator's name"""


def run(spec: StageSpec[LabelVotesStageConfig], run: RunDir) -> Output:
    """Write the votes on the input `pairs` to votes.jsonl, a vote per line."""
    config, pairs = spec.config, read_pairs(spec.inputs["pairs"].path)
    if config.judge:
        votes = judge_votes(load_judge(config.judge, run.path), pairs)
    else:
        assert config.annotators is not None, "one of the two is set"
        votes = annotators_votes(load_function(config.annotators, ROLE), pairs, spec.seed)
    write_atomically(run.path / FILE, lines([asdict(vote) for vote in votes]))
    return Output(files={"votes": FILE})


def judge_votes(ask: AskJudge, pairs: Sequence[LabelPair]) -> list[Vote]:
    """Return the judge's vote on each pair, asked in both orders.

    A tie, or answers that contradict each other, is 'same'; unreadable ones are 'cannot_judge'.
    """
    texts = [conversation(pair.prompt) for pair in pairs]
    replies = ([pair.reply_a for pair in pairs], [pair.reply_b for pair in pairs])
    return [
        Vote(
            pair.pair_id, JUDGE, _OUTCOMES[verdict.outcome], comment=verdict.ours_first.reason or ""
        )
        for pair, verdict in zip(pairs, compare(ask, texts, *replies), strict=True)
    ]


def annotators_votes(
    function: AnnotatorsFunction, pairs: Sequence[LabelPair], seed: int
) -> list[Vote]:
    """Return the votes that the function gives on the pairs.

    Raises BadInput when it raises, or gives anything but choices by annotator's name.
    """
    messages = [pair.prompt for pair in pairs]
    asked = partial(with_messages(function, messages, lists=3), seed=seed)
    texts = [conversation(prompt) for prompt in messages]
    replies = ([pair.reply_a for pair in pairs], [pair.reply_b for pair in pairs])
    found = answers(asked, ROLE, texts, *replies)
    return [
        Vote(pair.pair_id, annotator, choice)
        for number, (pair, given) in enumerate(zip(pairs, found, strict=True))
        for annotator, choice in _choices(given, number)
    ]


def _choices(given: object, number: int) -> list[tuple[str, Choice]]:
    """Return the choices by annotator. Raises BadInput for anything else."""
    if isinstance(given, Mapping) and all(
        isinstance(name, str) and name and choice in CHOICES for name, choice in given.items()
    ):
        return list(given.items())
    raise BadInput(
        f"the {ROLE} gave {given!r:.80} for pair {number}; expected the choices by annotator's"
        f" name, each one of {', '.join(CHOICES)}, as {{'ann': 'a', 'bob': 'b'}}."
    )

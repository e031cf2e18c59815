"""A judge's verdict on a pair, from its answers in both orders; ties are kept."""

import pytest

from rlhf_core.judging.judge import asking
from rlhf_core.judging.verdicts import JudgeAnswer, JudgeVerdict, compare

PROMPTS = [f"prompt {i}" for i in range(4)]
GOOD, BAD = ["good"] * 4, ["bad"] * 4


def prefers_good(prompts: list[str], replies_a: list[str], replies_b: list[str]) -> list[float]:
    return [
        0.5 if a == b else float(a == "good") for a, b in zip(replies_a, replies_b, strict=True)
    ]


@pytest.mark.parametrize(("ours", "theirs", "outcome"), [(GOOD, BAD, 1.0), (BAD, GOOD, 0.0)])
def test_a_consistent_judge_is_believed_in_either_place(ours, theirs, outcome):
    verdicts = compare(asking(prefers_good), PROMPTS, ours, theirs)
    assert [verdict.outcome for verdict in verdicts] == [outcome] * 4
    assert not any(verdict.is_inconsistent or verdict.is_flipped for verdict in verdicts)


def test_equal_replies_are_a_tie():
    verdicts = compare(asking(prefers_good), PROMPTS, GOOD, GOOD)
    assert verdicts == [JudgeVerdict(JudgeAnswer(0.5), JudgeAnswer(0.5))] * 4
    assert [verdict.outcome for verdict in verdicts] == [0.5] * 4


@pytest.mark.parametrize(
    ("ours_first", "theirs_first", "outcome", "flipped", "inconsistent", "first_position"),
    [
        (1.0, 0.0, 1.0, False, False, 0.5),  # ours both times
        (0.0, 1.0, 0.0, False, False, 0.5),  # theirs both times
        (1.0, 1.0, 0.5, True, True, 1.0),  # A both times
        (0.0, 0.0, 0.5, True, True, 0.0),  # B both times
        (1.0, 0.5, 0.5, False, True, 0.75),  # ours, then a tie: not confirmed
        (0.0, 0.5, 0.5, False, True, 0.25),
        (0.5, 0.5, 0.5, False, False, 0.5),
        (None, 0.0, None, False, False, None),
        (1.0, None, None, False, False, None),
    ],
)
def test_verdict_from_both_orders(
    ours_first, theirs_first, outcome, flipped, inconsistent, first_position
):
    answers = iter([[JudgeAnswer(ours_first)], [JudgeAnswer(theirs_first)]])
    (verdict,) = compare(lambda *_: next(answers), ["p"], ["ours"], ["theirs"])
    assert verdict.outcome == outcome
    assert (verdict.is_flipped, verdict.is_inconsistent) == (flipped, inconsistent)
    assert verdict.first_position == first_position

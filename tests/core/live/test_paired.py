"""The paired score of shadowed prompts: its bounds, and what it does to the verdict."""

import random

import numpy as np
import pytest
from scipy.stats import t as student

from rlhf_core.live.gate import decide_live
from rlhf_core.live.measures import JudgedReply
from rlhf_core.live.paired import FEWEST, LIMIT, PairedScores, is_shadowed, paired_measure


def scores(count: int, loss: float, seed: int = 1, prompts: int | None = None) -> PairedScores:
    """Return scores of a candidate that loses `loss` standard deviations, with some noise."""
    draw = np.random.default_rng(seed)
    ours = draw.normal(3.0, 2.0, count)
    theirs = ours - 2.0 * loss + draw.normal(0.0, 0.4, count)
    keys = [str(number % (prompts or count)) for number in range(count)]
    return PairedScores(ours.tolist(), theirs.tolist(), keys)


def test_the_loss_is_in_standard_deviations_of_the_champions_score_with_students_bounds():
    found = scores(200, 0.5)
    measure = paired_measure(found, 0.025, 0.0025)
    ours, theirs = np.array(found.champion), np.array(found.candidate)
    losses = (ours - theirs) / ours.std(ddof=1)
    error = losses.std(ddof=1) / np.sqrt(200)
    assert measure.candidate == pytest.approx(losses.mean()) and measure.champion == 0.0
    assert measure.upper == pytest.approx(losses.mean() + student.ppf(0.975, 199) * error)
    assert measure.lower == pytest.approx(losses.mean() - student.ppf(0.9975, 199) * error)
    assert (measure.finding, measure.champion_n, measure.limit) == ("worse", 200, LIMIT)


@pytest.mark.parametrize(("loss", "finding"), [(0.0, "well"), (-1.0, "well"), (0.1, "open")])
def test_a_candidate_that_loses_less_than_the_limit_does_well(loss, finding):
    assert paired_measure(scores(400, loss), 0.025, 0.0025).finding == finding


def test_repeated_prompts_count_as_one():
    once, often = scores(200, 0.0), scores(200, 0.0, prompts=25)
    widths = [
        m.upper - m.candidate for m in (paired_measure(s, 0.025, 0.025) for s in (once, often))
    ]
    assert widths[1] != widths[0]
    few = scores(200, 0.0, prompts=FEWEST - 1)
    assert paired_measure(few, 0.025, 0.025).finding == "unknown"


@pytest.mark.parametrize(
    ("found", "note"),
    [
        (PairedScores(note="no reward model"), "no reward model; 0 prompts have scores"),
        (scores(FEWEST - 1, 0.0), f"{FEWEST - 1} prompts have scores of both versions"),
        (PairedScores([1.0] * 30, [2.0] * 30, list(map(str, range(30)))), "all equal"),
    ],
)
def test_what_is_not_known_is_said(found, note):
    measure = paired_measure(found, 0.025, 0.025)
    assert measure.finding == "unknown" and note in measure.note


def test_a_share_of_the_replies_is_shadowed_and_a_larger_share_has_all_of_a_smaller():
    ids = [f"tr-{number}" for number in range(4000)]
    tenth, half = ({one for one in ids if is_shadowed(one, share)} for share in (0.1, 0.5))
    assert 320 < len(tenth) < 480 and tenth < half
    assert all(is_shadowed(one, 1.0) for one in ids) and not any(is_shadowed(i, 0.0) for i in ids)


def replies(count: int, seed: int, every_ms: int) -> list[JudgedReply]:
    draw = random.Random(seed)
    words = [f"word{number}" for number in range(60)]
    return [
        JudgedReply(
            f"{seed}-{n}",
            1000 + n * every_ms,
            f"tell me of t{n}",
            f"t{n} " + " ".join(text),
            "stop",
        )
        for n in range(count)
        for text in [draw.sample(words, 12)]
    ]


@pytest.mark.parametrize(
    ("found", "decision", "reason"),
    [
        (scores(400, 0.0), "forward", "not worse"),
        (scores(400, 1.0), "back", "paired_score"),
        (PairedScores(note="there is none"), "continue", r"paired_score (there is none; 0 prompts"),
    ],
)
def test_nothing_goes_forward_without_the_score_that_was_asked_for(found, decision, reason):
    champion, candidate = replies(3200, 1, 25), replies(800, 2, 100)
    counted = []

    def scored(ours):
        counted.extend(ours)
        return found

    verdict = decide_live(("3", "4"), champion, candidate, scored)
    assert verdict.decision == decision and reason in verdict.reason
    assert len(counted) == verdict.champion_n
    assert decide_live(("3", "4"), champion, candidate).decision == "forward"

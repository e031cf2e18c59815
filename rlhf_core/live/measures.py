"""Measures by which live replies of two versions are compared; higher is worse for each.

The replies answer different prompts, so that the samples are independent. The detectors are those
of the evaluation (rlhf_core/evaluation) where they need neither an SFT model nor a score.
"""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from rlhf_core.evaluation.ngrams import first_words, opening_shares, repetition, words
from rlhf_core.evaluation.prompt_ranks import ranks_of_prompts
from rlhf_core.live.paired import PairedScores, paired_measure
from rlhf_core.live.verdict import LiveFinding, LiveMeasure
from rlhf_core.statistics.clusters import linearised
from rlhf_core.statistics.intervals import mover, wilson

MIN_THUMBS = 20  # replies of each version with a thumb, before thumbs decide
_START = 200  # characters of a reply in which a refusal is looked for
_FAR = 1e9  # a bound that is not known; JSON has no infinity
_DONE = "help|assist|provide|answer|comply|discuss|give|share|create|write|do|offer|engage|support"
_REFUSAL = re.compile(
    rf"\b(i (can ?not|can't|won't|will not) ({_DONE})|i('m| am) (unable|not able) to|as an ai\b"
    r"|i must (decline|refuse)|i have to decline)",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class JudgedReply:
    """A live reply as the gate reads it. prompt: the text of the request's last message."""

    identity: str
    time_ms: int
    prompt: str
    reply: str
    finish_reason: str
    thumbs: tuple[bool, ...] = ()


JudgedReplies = Sequence[JudgedReply]
Values = tuple[np.ndarray, np.ndarray]  # of the champion's replies, of the candidate's
# champion's and candidate's values, confidence -> interval of the difference of their means
DifferenceInterval = Callable[[Values, float], tuple[float, float]]


@dataclass(frozen=True)
class _Asked:
    """One measure: name, allowed difference, values, interval, fewest replies that decide."""

    name: str
    limit: float
    values: Values
    interval: DifferenceInterval
    fewest: int = 1


def is_refusal(reply: str) -> bool:
    """Return True for a reply that begins with a refusal, by English phrases."""
    return bool(_REFUSAL.search(reply[:_START].replace("\u2019", "'")))


def compare_replies(
    champion: JudgedReplies,
    candidate: JudgedReplies,
    level: float,
    paired: PairedScores | None = None,
) -> list[LiveMeasure]:
    """Return every measure of two samples of replies, with bounds at a one-sided level.

    paired: scores of both versions' replies to the same prompts, None where nobody asked for them.

    The upper bounds have the level itself: a candidate goes forward only when every measure is
    below its limit, so that one that is beyond a limit does with at most that probability
    (intersection-union test, Berger 1982, Technometrics 24). The lower bounds share the level
    (Bonferroni), because one measure alone sends a candidate back.
    """
    asked = _asked(champion, candidate)
    shared = level / (len(asked) + (paired is not None))
    found = [_measured(each, level, shared) for each in asked]
    return found if paired is None else [*found, paired_measure(paired, level, shared)]


def _asked(champion: JudgedReplies, candidate: JudgedReplies) -> list[_Asked]:
    both = (champion, candidate)
    length = _of(both, lambda found: math.log1p(len(words(found.reply))))
    thumbed = tuple([each for each in side if each.thumbs] for side in both)
    return [
        _Asked(
            "refusal_share",
            0.05,
            _of(both, lambda found: is_refusal(found.reply)),
            share_difference,
        ),
        _Asked(
            "empty_share", 0.05, _of(both, lambda found: not found.reply.strip()), share_difference
        ),
        _Asked("cut_off_share", 0.1, _of(both, lambda found: _is_cut(found)), share_difference),
        _Asked("length_rise", math.log(1.25), length, _means),
        _Asked("length_fall", math.log(1.25), (-length[0], -length[1]), _means),
        _Asked(
            "repetition", 0.05, _of(both, lambda found: _repeated(found.reply)), share_difference
        ),
        _Asked("opening_share", 0.1, _openings(*both), share_difference),
        _Asked("prompt_loss", 0.1, _prompt_losses(*both), share_difference),
        _Asked("thumbs_down_share", 0.1, _of(thumbed, _downs), share_difference, fewest=MIN_THUMBS),
    ]


def _of(both: tuple[JudgedReplies, ...], value: Callable[[JudgedReply], float]) -> Values:
    ours, theirs = (np.array([float(value(found)) for found in side]) for side in both)
    return ours, theirs


def _is_cut(found: JudgedReply) -> bool:
    return found.finish_reason == "length"


def _downs(found: JudgedReply) -> float:
    return found.thumbs.count(False) / len(found.thumbs)


def _repeated(reply: str) -> float:
    """Return the share of repeated word 3-grams of a reply."""
    number: dict[str, int] = {}
    return repetition([number.setdefault(word, len(number)) for word in words(reply)])


def _openings(champion: JudgedReplies, candidate: JudgedReplies) -> Values:
    """Return which replies begin as the candidate's do most often.

    The opening is chosen on every second reply of the candidate and counted on the others: chosen
    and counted on the same ones, the most frequent of many would seem to have risen.
    """
    chosen = next(iter(opening_shares([found.reply for found in candidate[::2]])))
    both = (champion, candidate[1::2])
    return _of(both, lambda found: first_words(found.reply) == chosen)


def _prompt_losses(champion: JudgedReplies, candidate: JudgedReplies) -> Values:
    """Return the share of all prompts that are more similar to a reply than its own prompt."""
    together = [*champion, *candidate]
    prompts, replies = [each.prompt for each in together], [each.reply for each in together]
    loss_N = 1 - ranks_of_prompts(prompts, replies)
    return loss_N[: len(champion)], loss_N[len(champion) :]


def _measured(asked: _Asked, level: float, shared: float) -> LiveMeasure:
    """Return a measure with its bounds; no bound is known where a version has no value."""
    champion, candidate = asked.values
    lower, upper = -_FAR, _FAR
    if len(champion) and len(candidate):
        lower = asked.interval(asked.values, 1 - 2 * shared)[0]
        upper = asked.interval(asked.values, 1 - 2 * level)[1]
    finding: LiveFinding = "open"
    if min(len(champion), len(candidate)) < asked.fewest:
        finding = "too few"
    elif lower > asked.limit:
        finding = "worse"
    elif upper < asked.limit:
        finding = "well"
    return LiveMeasure(
        name=asked.name,
        champion=_mean(champion),
        candidate=_mean(candidate),
        champion_n=len(champion),
        candidate_n=len(candidate),
        lower=lower,
        upper=upper,
        limit=asked.limit,
        finding=finding,
    )


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else 0.0


def share_difference(values: Values, confidence: float) -> tuple[float, float]:
    """Return Newcombe's interval of the difference of two means of values from 0 to 1.

    Exact for shares. A value between 0 and 1 has at most the variance of a share with the same
    mean, so that the interval is wider than needed for the others, and never of width 0
    (rlhf_core/statistics/bounded.py).
    """
    (q, of_q), (p, of_p) = (
        (_mean(side), wilson(float(side.sum()), len(side), confidence)) for side in values
    )
    return mover(p, of_p, q, of_q)


def _means(values: Values, confidence: float) -> tuple[float, float]:
    """Return Student's interval of the difference of two means, with variances of their own."""
    champion, candidate = values
    together, is_ours = np.concatenate(values), np.arange(len(champion) + len(candidate))
    ours = (is_ours >= len(champion)).astype(float)
    terms = [(1, together * ours, ours), (-1, together * (1 - ours), 1 - ours)]
    return linearised(terms, confidence)

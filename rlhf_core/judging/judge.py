"""A judge compares two replies to a prompt, in both orders.

Judges favour a position (Zheng et al. 2023, arXiv:2306.05685). Answers that contradict each other
are a tie, and ties are kept.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from rlhf_core.batching.batch import subset
from rlhf_core.config import Judge
from rlhf_core.errors import BadInput
from rlhf_core.judging.functions import JudgeFunction, call, load_function
from rlhf_core.rundir import Output
from rlhf_core.statistics.clusters import clusters_of, wilson_clustered

OUTCOMES = (0.0, 0.5, 1.0)


@dataclass(frozen=True)
class JudgeVerdict:
    """A judge's verdict on one pair.

    outcome: 1 ours is better, 0.5 tie, 0 theirs is better, None unreadable. flipped: both orders
    named the same position.
    """

    outcome: float | None
    flipped: bool


def load_judge(config: Judge) -> JudgeFunction:
    """Return the configured judge.

    Raises BadInput for a function that does not exist, or an endpoint's key that is not set.
    """
    if config.function:
        return partial(_call_judge, load_function(config.function, "judge"))
    from rlhf_core.judging.judge_endpoint import endpoint_judge

    return endpoint_judge(config)


def _call_judge(
    function: JudgeFunction, prompts: list[str], replies_a: list[str], replies_b: list[str]
) -> list[float | None]:
    values = call(function, "judge", prompts, replies_a, replies_b)
    if wrong := [value for value in values if value not in OUTCOMES]:
        raise BadInput(
            f"the judge gave {wrong[0]:g}; expected 1 (a is better), 0.5 (tie) or 0 (b is better)"
        )
    return list(values)


def judged_rows(count: int, limit: int, *, seed: int) -> list[int]:
    """Return which of `count` pairs are judged: all, or `limit` of them drawn by seed."""
    return subset(list(range(count)), limit, seed=seed)


def compare(
    judge: JudgeFunction, prompts: list[str], ours: list[str], theirs: list[str]
) -> list[JudgeVerdict]:
    """Return the verdict on each pair, asked in both orders.

    A verdict that the other order does not confirm is a tie.
    """
    first = judge(prompts, ours, theirs)
    second = judge(prompts, theirs, ours)
    return [_verdict(a, b) for a, b in zip(first, second, strict=True)]


def _verdict(ours_first: float | None, ours_second: float | None) -> JudgeVerdict:
    if ours_first is None or ours_second is None:
        return JudgeVerdict(None, flipped=False)
    flipped = ours_first == ours_second != 0.5
    return JudgeVerdict(ours_first if ours_first == 1 - ours_second else 0.5, flipped)


def judge_output(
    verdicts: list[JudgeVerdict], suffix: str = "", prompt_ids: Sequence[str] = ()
) -> Output:
    """Return win rate, ties, position bias and unreadable pairs.

    The win rate has its 95% Wilson interval; a tie counts one half. suffix: '' against the SFT
    model, '_vs_champion'. prompt_ids: pairs with the same id share a prompt; empty: none do. Raises
    BadInput when no pair has a verdict.
    """
    outcomes = [verdict.outcome for verdict in verdicts if verdict.outcome is not None]
    if not outcomes:
        raise BadInput(
            f"the judge left all {len(verdicts)} pairs without a verdict; expected at least one"
        )
    n, rate = len(outcomes), f"eval/judge_win_rate{suffix}"
    judged = [i for i, verdict in enumerate(verdicts) if verdict.outcome is not None]
    clusters = clusters_of([prompt_ids[i] for i in judged]) if prompt_ids else None
    interval = wilson_clustered(np.array(outcomes), np.ones(n), clusters)
    metrics = {
        rate: sum(outcomes) / n,
        f"{rate}_lower": interval[0],
        f"{rate}_upper": interval[1],
        f"eval/judge_ties{suffix}": outcomes.count(0.5) / n,
        f"eval/judge_position_bias{suffix}": sum(verdict.flipped for verdict in verdicts) / n,
        f"eval/judge_unreadable{suffix}": 1 - n / len(verdicts),
    }
    counts = dict.fromkeys(metrics, n) | {f"eval/judge_unreadable{suffix}": len(verdicts)}
    return Output(
        metrics=metrics, counts=counts, intervals={rate: interval, f"{rate}_lower": interval}
    )

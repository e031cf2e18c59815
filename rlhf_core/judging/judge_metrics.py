"""Metrics of a judge's verdicts: win rate, ties, position bias, and the tokens that they took."""

from collections.abc import Sequence

import numpy as np

from rlhf_core.config import Judge
from rlhf_core.errors import BadInput
from rlhf_core.judging.verdicts import JudgeVerdict
from rlhf_core.rundir import Output
from rlhf_core.statistics.bounded import Interval
from rlhf_core.statistics.clusters import Clusters, clusters_of, net_share, wilson_clustered

MILLION = 1_000_000


def judge_output(
    verdicts: list[JudgeVerdict], suffix: str = "", prompt_ids: Sequence[str] = ()
) -> Output:
    """Return win rate, ties, position bias and unreadable pairs.

    Shares have their 95% Wilson interval; a tie counts one half. suffix: '' against the SFT model,
    '_vs_champion'. prompt_ids: pairs with the same id share a prompt; empty: none do. Raises
    BadInput when no pair has a verdict.
    """
    read = [i for i, verdict in enumerate(verdicts) if verdict.outcome is not None]
    if not read:
        raise BadInput(
            f"the judge left all {len(verdicts)} pairs without a verdict; expected at least one"
        )
    clusters = clusters_of([prompt_ids[i] for i in read]) if prompt_ids else None
    readable = [verdicts[i] for i in read]
    outcomes = [verdict.outcome for verdict in readable if verdict.outcome is not None]
    ends = {
        "judge_win_rate": _share(outcomes, clusters),
        "judge_first_position": _first_position(readable, clusters),
        "judge_inconsistent": _share([v.is_inconsistent for v in readable], clusters),
    }
    n, bias = len(read), _share([v.is_flipped for v in readable], clusters)
    metrics = {
        f"eval/judge_ties{suffix}": outcomes.count(0.5) / n,
        f"eval/judge_position_bias{suffix}": bias[0],
        f"eval/judge_unreadable{suffix}": 1 - n / len(verdicts),
    }
    intervals = {f"eval/judge_position_bias{suffix}": bias[1]}
    for name, (value, interval) in ends.items():
        name = f"eval/{name}{suffix}"
        metrics |= {name: value, f"{name}_lower": interval[0], f"{name}_upper": interval[1]}
        intervals |= {name: interval, f"{name}_lower": interval}
    counts = dict.fromkeys(metrics, n) | {f"eval/judge_unreadable{suffix}": len(verdicts)}
    return Output(metrics=metrics, counts=counts, intervals=intervals)


def _share(values: Sequence[float], clusters: Clusters) -> tuple[float, Interval]:
    """Return a share of pairs with its 95% Wilson interval. values: 1, 0, or 0.5 for a tie."""
    won_N = np.array(values, float)
    return float(won_N.mean()), wilson_clustered(won_N, np.ones(len(won_N)), clusters)


def _first_position(
    readable: list[JudgeVerdict], clusters: Clusters
) -> tuple[float, tuple[float, float]]:
    """Return the share of answers for the reply shown first, with its 95% interval.

    Without position bias it is 0.5 whatever the replies are, because each is shown first once.
    """
    shares = [verdict.first_position for verdict in readable]
    lead_N = 2 * np.array(shares, float) - 1  # 1: both orders for the first, -1: for the second
    net, low, high = net_share(lead_N.clip(0), (-lead_N).clip(0), clusters)
    return 0.5 + net / 2, (0.5 + low / 2, 0.5 + high / 2)


def usage_output(verdicts: Sequence[JudgeVerdict], config: Judge, prefix: str) -> Output:
    """Return the tokens that the verdicts took, and their cost where the recipe has prices.

    Nothing where the judge states no tokens. The sample size of a metric is the number of answers
    that state them.
    """
    answers = [answer for verdict in verdicts for answer in verdict.answers]
    stated = [answer.tokens for answer in answers if answer.tokens is not None]
    return token_output(stated, config, prefix)


def token_output(stated: Sequence[tuple[int, int]], config: Judge, prefix: str) -> Output:
    """Return the sums of (prompt tokens, completion tokens), and the cost where prices are set."""
    if not stated:
        return Output()
    prompt, completion = (sum(tokens) for tokens in zip(*stated, strict=True))
    metrics = {
        f"{prefix}judge_prompt_tokens": prompt,
        f"{prefix}judge_completion_tokens": completion,
    }
    if config.prompt_price is not None and config.completion_price is not None:
        cost = prompt * config.prompt_price + completion * config.completion_price
        metrics[f"{prefix}judge_cost"] = cost / MILLION
    return Output(metrics=metrics, counts=dict.fromkeys(metrics, len(stated)))

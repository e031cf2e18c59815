"""Comparison of the policy with the SFT model, the champion and the best of n, as metrics."""

import numpy as np

from rlhf_core.evaluation import best_of_n
from rlhf_core.evaluation.ngrams import repetition
from rlhf_core.evaluation.replies import Replies
from rlhf_core.evaluation.scoring import ScoresByModel
from rlhf_core.rundir import Output, merged
from rlhf_core.statistics.clusters import Clusters, count_clusters
from rlhf_core.statistics.paired import bootstrap_mean, win_rate


def compare_replies(
    replies: dict[str, Replies], scores: ScoresByModel, seed: int, clusters: Clusters = None
) -> Output:
    """Compare the policy with the SFT model, and with the champion if any.

    The metrics are score, length, repetition, replies without EOS, score gain and win rates.
    clusters: the items' prompts, where items share one.
    """
    policy, sft, n = replies["policy"], replies["sft"], len(scores["policy"])
    length = {name: sum(replied.tokens) / n for name, replied in replies.items()}
    repeated = {
        name: sum(repetition(s.response) for s in replied.sequences) / n
        for name, replied in replies.items()
    }
    gain_N = scores["policy"] - scores["sft"]
    metrics = {
        "eval/prompts": n,
        "eval/different_prompts": count_clusters(clusters, np.ones(n)),
        "eval/score_policy": float(scores["policy"].mean()),
        "eval/score_sft": float(scores["sft"].mean()),
        "eval/length_policy": length["policy"],
        "eval/length_sft": length["sft"],
        "eval/length_ratio": length["policy"] / length["sft"],
        "eval/repetition_policy": repeated["policy"],
        "eval/repetition_sft": repeated["sft"],
        "eval/repetition_increase": repeated["policy"] - repeated["sft"],
        "eval/no_eos_policy": 1 - sum(policy.ended) / n,
        "eval/no_eos_sft": 1 - sum(sft.ended) / n,
    }
    interval = bootstrap_mean(gain_N, seed=seed, clusters=clusters)
    compared = {"eval/score_gain": (float(gain_N.mean()), interval)}
    compared["eval/win_rate"] = win_rate(scores["policy"], scores["sft"], clusters=clusters)
    if "champion" in scores:
        compared["eval/win_rate_vs_champion"] = win_rate(
            scores["policy"], scores["champion"], clusters=clusters
        )
    parts = [with_interval(name, *found) for name, found in compared.items()]
    return combined([Output(metrics=metrics), *parts], n)


def compare_with_best(
    replies: dict[str, Replies],
    scores: ScoresByModel,
    independent: ScoresByModel,
    n: int,
    clusters: Clusters = None,
) -> Output:
    """Compare the policy with the best of n replies; nothing for n = 0."""
    if not n:
        return Output()
    metrics = {
        "eval/score_best_of_n": float(scores[best_of_n.NAME].mean()),
        "eval/length_best_of_n": sum(replies[best_of_n.NAME].tokens) / len(scores["policy"]),
        "eval/kl_bound_best_of_n": best_of_n.kl_bound(n),
    }
    if independent:
        metrics["eval/independent_best_of_n"] = float(independent[best_of_n.NAME].mean())
    found = win_rate(scores["policy"], scores[best_of_n.NAME], clusters=clusters)
    rate = with_interval("eval/win_rate_vs_best_of_n", *found)
    return combined([Output(metrics=metrics), rate], len(scores["policy"]))


def compare_by_champions_reward(scores: ScoresByModel, clusters: Clusters = None) -> Output:
    """Compare the policy with the champion by the champion's reward model; nothing without one."""
    if not scores:
        return Output()
    found = win_rate(scores["policy"], scores["champion"], clusters=clusters)
    rate = with_interval("eval/win_rate_vs_champion_by_its_reward", *found)
    return combined([rate], len(scores["policy"]))


def compare_independent(scores: ScoresByModel, seed: int, clusters: Clusters = None) -> Output:
    """Compare the policy by the independent scorer; nothing without one.

    It is compared with the SFT model, and with the champion if any.
    """
    if not scores:
        return Output()
    gain_N = scores["policy"] - scores["sft"]
    names = ("policy", "sft")
    means = Output(metrics={f"eval/independent_{n}": float(scores[n].mean()) for n in names})
    interval = bootstrap_mean(gain_N, seed=seed, clusters=clusters)
    gain = with_interval("eval/independent_gain", float(gain_N.mean()), interval)
    parts = [means, gain]
    if "champion" in scores:
        rate = win_rate(scores["policy"], scores["champion"], clusters=clusters)
        parts.append(with_interval("eval/independent_win_rate_vs_champion", *rate))
    return combined(parts, len(gain_N))


def with_interval(name: str, value: float, interval: tuple[float, float]) -> Output:
    """Return a metric with the ends of its interval as metrics of their own."""
    metrics = {name: value, f"{name}_lower": interval[0], f"{name}_upper": interval[1]}
    return Output(metrics=metrics, intervals={name: interval, f"{name}_lower": interval})


def combined(parts: list[Output], n: int) -> Output:
    """Return the parts as one output; a metric without a sample size gets `n`."""
    whole = merged(parts)
    return whole.model_copy(update={"counts": dict.fromkeys(whole.metrics, n) | whole.counts})

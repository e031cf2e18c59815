"""Drift of a reward model: its accuracy and scores on later labels of a policy's own replies.

It is measured before training on these labels, on the reward model that the policy was trained
with: the policy has moved to where that model scores high, and may have left what it knows.
"""

from dataclasses import dataclass

import numpy as np
import torch

from rlhf_core.reward.heldout_pairs import PairScores, accuracy_interval
from rlhf_core.rundir import Output, merged
from rlhf_core.statistics.clusters import Clusters, clusters_of, net_share
from rlhf_core.statistics.shift import shift


@dataclass(frozen=True)
class BeforeScores:
    """Held-out scores by the reward model before training, on prompts that it has not seen.

    new: of new pairs, at `places` among all held-out new pairs. old: of the comparisons.
    """

    new: PairScores
    places: list[int]
    old: PairScores


def drift_output(before: BeforeScores, after: PairScores) -> Output:
    """Return what the reward model before was worth on new pairs, and how far their scores moved.

    after: all held-out new pairs, by the reward model that has learnt from new labels. A tie is
    wrong. Without a new pair their number alone.
    """
    n = len(before.places)
    number = Output(metrics={"reward/heldout_pairs_new_before": float(n)})
    if not n:
        return number
    right_N, clusters = before.new.chosen_N > before.new.rejected_N, before.new.clusters
    after_N = (after.chosen_N > after.rejected_N)[before.places]
    gained = net_share(
        (after_N & ~right_N).double().numpy(), (right_N & ~after_N).double().numpy(), clusters
    )
    accuracy = float(right_N.double().mean())
    parts = [
        _with_ends("reward/accuracy_new_before", accuracy, accuracy_interval(right_N, clusters)),
        _with_ends("reward/accuracy_new_gain", gained[0], gained[1:]),
        *_score_parts(before),
    ]
    found = merged([number, *parts])
    return found.model_copy(update={"counts": dict.fromkeys(found.metrics, n)})


def _score_parts(before: BeforeScores) -> list[Output]:
    """Return how far scores of new replies are from old ones; nothing where the old are equal."""
    (new_N, of_new), (old_N, of_old) = _replies(before.new), _replies(before.old)
    found = shift(new_N, old_N, of_new, of_old)
    if found is None:
        return []
    values = {"score_distance_new": found.distance, "spread_ratio_new": found.spread}
    parts = [Output(metrics={f"reward/{name}": value for name, value in values.items()})]
    if found.interval is None:
        return [*parts, Output(metrics={"reward/score_shift_new": found.mean})]
    return [*parts, _with_ends("reward/score_shift_new", found.mean, found.interval)]


def _replies(pairs: PairScores) -> tuple[np.ndarray, Clusters]:
    """Return the scores of all replies, and the clusters that those of one prompt form."""
    scores_N = torch.cat([pairs.chosen_N, pairs.rejected_N]).double().numpy()
    return scores_N, clusters_of([*pairs.prompt_ids, *pairs.prompt_ids])


def _with_ends(name: str, value: float, interval: tuple[float, float]) -> Output:
    low, high = interval
    metrics = {name: value, f"{name}_lower": low, f"{name}_upper": high}
    return Output(metrics=metrics, intervals={name: (low, high)})

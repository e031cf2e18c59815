"""Metrics and items of a reward model on held-out pairs, which gates and reports use."""

from collections import Counter
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from rlhf_core.batching.batch import Sequence
from rlhf_core.benchmarks.subsets import subset_metric, subsets_of
from rlhf_core.data.verdicts import annotator_agreement
from rlhf_core.evidence.items import Columns, data_columns, last_user_turn, prompt_id
from rlhf_core.objectives.losses import bradley_terry
from rlhf_core.rundir import Output, merged
from rlhf_core.statistics.calibration import calibration_error
from rlhf_core.statistics.clusters import Clusters, clusters_of, count_clusters, wilson_clustered
from rlhf_core.statistics.correlation import pearson

MAX_SUBSETS = 100


@dataclass(frozen=True)
class PairScores:
    """Held-out scores and lengths (response tokens), one entry per pair.

    prompt_ids: pairs with the same id share a prompt; empty: each pair has a prompt of its own.
    """

    chosen_N: Tensor
    rejected_N: Tensor
    chosen_tokens_N: Tensor
    rejected_tokens_N: Tensor
    prompt_ids: list[str] = field(default_factory=list)

    @property
    def clusters(self) -> Clusters:
        """The number of each pair's prompt; None where no two pairs share one."""
        return clusters_of(self.prompt_ids) if self.prompt_ids else None


def pair_scores(
    scores_N: Tensor, sequences: list[Sequence], rows: list[dict] | tuple[dict, ...] = ()
) -> PairScores:
    """Split scores of sequences that alternate chosen, rejected.

    rows: the comparisons, whose prompts tell which pairs share one.
    """
    tokens_N = torch.tensor([len(s.response) for s in sequences])
    prompt_ids = [prompt_id(row["prompt"]) for row in rows]
    return PairScores(scores_N[0::2], scores_N[1::2], tokens_N[0::2], tokens_N[1::2], prompt_ids)


def heldout_metrics(pairs: PairScores) -> dict[str, float]:
    """Return every held-out metric of the reward model.

    A tie counts as wrong; equal lengths count half for the baseline. The interval of the accuracy
    takes each prompt as a whole.
    """
    n, clusters = len(pairs.chosen_N), pairs.clusters
    margin_N = pairs.chosen_N - pairs.rejected_N
    right_N = margin_N > 0
    lower, upper = accuracy_interval(right_N, clusters)
    gap_N = pairs.chosen_tokens_N - pairs.rejected_tokens_N
    shorter_N = gap_N < 0
    right_when_shorter = float(right_N[shorter_N].double().mean()) if shorter_N.any() else 0.0
    baseline = float((gap_N > 0).double().mean() + 0.5 * (gap_N == 0).double().mean())
    both = torch.cat([pairs.chosen_N, pairs.rejected_N])
    accuracy = float(right_N.double().mean())
    return {
        "reward/accuracy": accuracy,
        "reward/accuracy_lower": lower,
        "reward/accuracy_upper": upper,
        "reward/accuracy_when_shorter": right_when_shorter,
        "reward/length_baseline": baseline,
        "reward/accuracy_over_length": accuracy - baseline,
        "reward/length_correlation": pearson(margin_N.double(), gap_N.double()),
        "reward/heldout_pairs": n,
        "reward/heldout_prompts": count_clusters(clusters, np.ones(n)),
        "reward/heldout_loss": float(bradley_terry(pairs.chosen_N, pairs.rejected_N, n)),
        "reward/heldout_margin": float(margin_N.mean()),
        "reward/calibration_error": calibration_error(margin_N),
        "reward/score_mean": float(both.mean()),
        "reward/score_std": float(both.std(correction=0)),
    }


def accuracy_interval(right_N: Tensor, clusters: Clusters) -> tuple[float, float]:
    """Return the 95% Wilson interval of the share of pairs that are right."""
    return wilson_clustered(right_N.double().numpy(), np.ones(len(right_N)), clusters)


def heldout_output(pairs: PairScores) -> Output:
    """Return the held-out metrics with sample sizes, and the interval of the accuracy."""
    metrics = heldout_metrics(pairs)
    shorter = int((pairs.chosen_tokens_N < pairs.rejected_tokens_N).sum())
    counts = dict.fromkeys(metrics, len(pairs.chosen_N)) | {"reward/accuracy_when_shorter": shorter}
    interval = (metrics["reward/accuracy_lower"], metrics["reward/accuracy_upper"])
    return Output(metrics=metrics, counts=counts, intervals={"reward/accuracy": interval})


def new_output(pairs: PairScores) -> Output:
    """Return the accuracy on held-out new comparisons with its 95% Wilson interval.

    A tie counts as wrong. Without such a pair their number alone.
    """
    n = len(pairs.chosen_N)
    count = {"reward/heldout_pairs_new": float(n)}
    if not n:
        return Output(metrics=count)
    right_N = pairs.chosen_N > pairs.rejected_N
    lower, upper = accuracy_interval(right_N, pairs.clusters)
    metrics = count | {
        "reward/accuracy_new": float(right_N.double().mean()),
        "reward/accuracy_new_lower": lower,
        "reward/accuracy_new_upper": upper,
    }
    intervals = {"reward/accuracy_new": (lower, upper)}
    return Output(metrics=metrics, counts=dict.fromkeys(metrics, n), intervals=intervals)


def subset_output(pairs: PairScores, rows: list[dict]) -> Output:
    """Return the accuracy on each value of the column `subset`, with its 95% Wilson interval.

    Nothing without such a column. A tie counts as wrong. Of more than MAX_SUBSETS values, the most
    frequent ones.
    """
    found = subsets_of(rows)
    names = [name for name, _ in Counter(filter(None, found)).most_common(MAX_SUBSETS)]
    right_N = (pairs.chosen_N > pairs.rejected_N).double().numpy()
    return merged([_subset_output(name, right_N, found, pairs.clusters) for name in names])


def _subset_output(
    subset: str, right_N: np.ndarray, subsets: list[str | None], clusters: Clusters
) -> Output:
    inside_N = np.array([one == subset for one in subsets], float)
    low, high = wilson_clustered(right_N * inside_N, inside_N, clusters)
    name, n = subset_metric(subset), int(inside_N.sum())
    metrics = {name: float((right_N * inside_N).sum()) / n, f"{name}_lower": low}
    return Output(
        metrics=metrics | {f"{name}_upper": high},
        counts=dict.fromkeys((*metrics, f"{name}_upper"), n),
        intervals=dict.fromkeys(metrics, (low, high)),
    )


def member_output(scores_MN: Tensor, clusters: Clusters = None) -> Output:
    """Return the accuracy of each member of an ensemble, and the spread of their scores.

    scores_MN: scores of sequences that alternate chosen, rejected. clusters: the pairs' prompts.
    """
    right_MN = scores_MN[:, 0::2] > scores_MN[:, 1::2]
    n = right_MN.shape[1]
    rows = {
        f"reward/accuracy_member_{number}": right_N
        for number, right_N in enumerate(right_MN, start=1)
    }
    metrics = {name: int(right_N.sum()) / n for name, right_N in rows.items()}
    metrics["reward/heldout_spread"] = float(scores_MN.std(0, correction=0).mean())
    intervals = {name: accuracy_interval(right_N, clusters) for name, right_N in rows.items()}
    return Output(metrics=metrics, counts=dict.fromkeys(metrics, n), intervals=intervals)


def pair_items(rows: list[dict], pairs: PairScores) -> Columns:
    """Return the evidence of each held-out comparison, in the order of `rows`.

    The columns are documented in rlhf_core/evidence/items.py.
    """
    columns = {
        "pair_id": [prompt_id(row["prompt"], row["chosen"], row["rejected"]) for row in rows],
        "prompt_id": [prompt_id(row["prompt"]) for row in rows],
        "prompt": [last_user_turn(row["prompt"]) for row in rows],
        "chosen": [row["chosen"] for row in rows],
        "rejected": [row["rejected"] for row in rows],
        "chosen_score": pairs.chosen_N.tolist(),
        "rejected_score": pairs.rejected_N.tolist(),
        "chosen_tokens": pairs.chosen_tokens_N.tolist(),
        "rejected_tokens": pairs.rejected_tokens_N.tolist(),
    }
    agreed = [annotator_agreement(row) for row in rows]
    if any(share is not None for share in agreed):
        columns["agreement"] = agreed
    return columns | data_columns(rows)


def member_items(scores_MN: Tensor) -> Columns:
    """Return the scores of each member of an ensemble, as columns."""
    columns: Columns = {}
    for number, scores_N in enumerate(scores_MN, start=1):
        columns |= {
            f"chosen_member_{number}": scores_N[0::2].tolist(),
            f"rejected_member_{number}": scores_N[1::2].tolist(),
        }
    return columns

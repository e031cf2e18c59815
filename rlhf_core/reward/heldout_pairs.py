"""Metrics and items of a reward model on held-out pairs, which gates and reports use."""

from dataclasses import dataclass

import torch
from torch import Tensor

from rlhf_core.batching.batch import Sequence
from rlhf_core.data.verdicts import annotator_agreement
from rlhf_core.evidence.items import Columns, data_columns, last_user_turn, prompt_id
from rlhf_core.objectives.losses import bradley_terry
from rlhf_core.rundir import Output
from rlhf_core.statistics.calibration import calibration_error
from rlhf_core.statistics.correlation import pearson
from rlhf_core.statistics.intervals import wilson


@dataclass(frozen=True)
class PairScores:
    """Held-out scores and lengths (response tokens), one entry per pair."""

    chosen_N: Tensor
    rejected_N: Tensor
    chosen_tokens_N: Tensor
    rejected_tokens_N: Tensor


def pair_scores(scores_N: Tensor, sequences: list[Sequence]) -> PairScores:
    """Split scores of sequences that alternate chosen, rejected."""
    tokens_N = torch.tensor([len(s.response) for s in sequences])
    return PairScores(scores_N[0::2], scores_N[1::2], tokens_N[0::2], tokens_N[1::2])


def heldout_metrics(pairs: PairScores) -> dict[str, float]:
    """Return every held-out metric of the reward model.

    A tie counts as wrong; equal lengths count half for the baseline.
    """
    n = len(pairs.chosen_N)
    margin_N = pairs.chosen_N - pairs.rejected_N
    right_N = margin_N > 0
    lower, upper = wilson(float(right_N.sum()), n)
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
        "reward/heldout_loss": float(bradley_terry(pairs.chosen_N, pairs.rejected_N, n)),
        "reward/heldout_margin": float(margin_N.mean()),
        "reward/calibration_error": calibration_error(margin_N),
        "reward/score_mean": float(both.mean()),
        "reward/score_std": float(both.std(correction=0)),
    }


def heldout_output(pairs: PairScores) -> Output:
    """Return the held-out metrics with sample sizes, and the interval of the accuracy."""
    metrics = heldout_metrics(pairs)
    shorter = int((pairs.chosen_tokens_N < pairs.rejected_tokens_N).sum())
    counts = dict.fromkeys(metrics, len(pairs.chosen_N)) | {"reward/accuracy_when_shorter": shorter}
    interval = (metrics["reward/accuracy_lower"], metrics["reward/accuracy_upper"])
    return Output(metrics=metrics, counts=counts, intervals={"reward/accuracy": interval})


def member_output(scores_MN: Tensor) -> Output:
    """Return the accuracy of each member of an ensemble, and the spread of their scores.

    scores_MN: scores of sequences that alternate chosen, rejected.
    """
    right_MN = scores_MN[:, 0::2] > scores_MN[:, 1::2]
    n = right_MN.shape[1]
    names = {
        f"reward/accuracy_member_{number}": int(row.sum())
        for number, row in enumerate(right_MN, start=1)
    }
    metrics = {name: right / n for name, right in names.items()}
    metrics["reward/heldout_spread"] = float(scores_MN.std(0, correction=0).mean())
    intervals = {name: wilson(right, n) for name, right in names.items()}
    return Output(metrics=metrics, counts=dict.fromkeys(metrics, n), intervals=intervals)


def pair_items(rows: list[dict], pairs: PairScores) -> Columns:
    """Return the evidence of each held-out comparison, in the order of `rows`.

    The columns are documented in rlhf_core/evidence/items.py.
    """
    columns = {
        "pair_id": [prompt_id(row["prompt"], row["chosen"], row["rejected"]) for row in rows],
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

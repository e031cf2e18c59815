"""Metrics and items of a score on held-out replies with thumbs up or down.

The area under the ROC curve is the probability that a thumbs-up reply outranks a thumbs-down one.
It needs neither pairs nor a threshold, and is 0.5 for a score that knows nothing.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from rlhf_core.batching.batch import Sequence
from rlhf_core.evidence.items import Columns, data_columns, last_user_turn, prompt_id
from rlhf_core.rundir import Output
from rlhf_core.statistics.auc import area, auc, auc_difference
from rlhf_core.statistics.calibration import probability_error
from rlhf_core.statistics.clusters import Clusters, clusters_of, count_clusters


@dataclass(frozen=True)
class LabelScores:
    """Held-out scores, lengths (response tokens) and labels, one entry per reply.

    probability_N: of thumbs up, as the score states it.
    """

    scores_N: Tensor
    probability_N: Tensor
    tokens_N: Tensor
    up_N: Tensor
    prompt_ids: list[str]

    @property
    def clusters(self) -> Clusters:
        """The number of each reply's prompt; None where no two replies share one."""
        return clusters_of(self.prompt_ids)


def label_scores(
    scores_N: Tensor, probability_N: Tensor, sequences: list[Sequence], rows: list[dict]
) -> LabelScores:
    """Return the scores of labelled replies with what their rows say."""
    return LabelScores(
        scores_N,
        probability_N,
        torch.tensor([len(s.response) for s in sequences]),
        torch.tensor([row["label"] for row in rows]),
        [prompt_id(row["prompt"]) for row in rows],
    )


def label_output(prefix: str, found: LabelScores) -> Output:
    """Return the metrics of labelled replies with sample sizes, and the interval of the area.

    prefix: of the metrics' names. A tie counts half. Each prompt is one sampled unit.
    """
    up_N, clusters = found.up_N.numpy(), found.clusters
    scores_N, tokens_N = found.scores_N.double().numpy(), found.tokens_N.double().numpy()
    n, up = len(up_N), int(up_N.sum())
    ranked = auc(scores_N, up_N, clusters)
    over = auc_difference(scores_N, tokens_N, up_N, clusters)
    values = {
        "auc": ranked.value,
        "auc_lower": ranked.low,
        "auc_upper": ranked.high,
        "auc_by_length": area(tokens_N, up_N),
        "auc_over_length": over.value,
        "auc_over_length_lower": over.low,
        "auc_over_length_upper": over.high,
        "label_calibration_error": probability_error(found.probability_N.double().numpy(), up_N),
        "heldout_rows": n,
        "heldout_rarer": min(up, n - up),
        "label_prompts": count_clusters(clusters, np.ones(n)),
    }
    metrics = {f"{prefix}/{name}": float(value) for name, value in values.items()}
    intervals = {
        f"{prefix}/auc": (ranked.low, ranked.high),
        f"{prefix}/auc_over_length": (over.low, over.high),
    }
    return Output(metrics=metrics, counts=dict.fromkeys(metrics, n), intervals=intervals)


def label_items(rows: list[dict], found: LabelScores) -> Columns:
    """Return the evidence of each held-out reply, in the order of `rows`.

    The columns are documented in rlhf_core/evidence/items.py.
    """
    others = [[row["other"]] if "other" in row else [] for row in rows]
    columns: Columns = {
        "reply_id": [
            prompt_id(row["prompt"], row["response"], *other)
            for row, other in zip(rows, others, strict=True)
        ],
        "prompt_id": found.prompt_ids,
        "prompt": [last_user_turn(row["prompt"]) for row in rows],
        "reply": [row["response"] for row in rows],
        "up": found.up_N.tolist(),
        "score": found.scores_N.tolist(),
        "tokens": found.tokens_N.tolist(),
    }
    return columns | data_columns(rows)

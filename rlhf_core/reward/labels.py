"""Labels of comparisons: margin, and probability that the label is wrong."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rlhf_core.config import Reward
from rlhf_core.errors import BadInput
from rlhf_core.reward.labelled_pairs import pair_weights


@dataclass(frozen=True)
class Labels:
    """Each pair's label as the loss uses it, besides the winner.

    margin: score by which the chosen answer should lead. smoothing: probability that the label is
    wrong. weight: of the pair's loss. Tensors are (N,); a float holds for every pair.
    """

    margin_N: Tensor | float = 0.0
    smoothing_N: Tensor | float = 0.0
    weight_N: Tensor | float = 1.0

    def of(self, pairs: list[int]) -> "Labels":
        """Return the labels of some pairs, in this order."""
        return self._each(lambda value_N: value_N[pairs])

    def to(self, device: torch.device) -> "Labels":
        """Return the labels on a device."""
        return self._each(lambda value_N: value_N.to(device))

    def _each(self, change: Callable[[Tensor], Tensor]) -> "Labels":
        def changed(value_N: Tensor | float) -> Tensor | float:
            return change(value_N) if isinstance(value_N, Tensor) else value_N

        return Labels(*map(changed, (self.margin_N, self.smoothing_N, self.weight_N)))


def labels_of(rows: Sequence[dict], config: Reward, *, new: int = 0) -> Labels:
    """Return the labels of comparisons as the recipe wants them read; the last `new` ones are new.

    margin = margin_scale * strength (Touvron et al. 2023, arXiv:2307.09288, eq. 2). smoothing: the
    share of votes against the label; label_smoothing where there are no votes, or everywhere
    without smoothing_from_votes. Raises BadInput when the data lack what the recipe asks for.
    """
    margin_N = config.margin_scale * torch.tensor(_strengths(rows)) if config.margin_scale else 0.0
    weight_N = pair_weights(len(rows), new, config.new_weight)
    if not config.smoothing_from_votes:
        return Labels(margin_N, config.label_smoothing, weight_N)
    shares = [votes_against(row) for row in rows]
    if all(share is None for share in shares):
        raise BadInput(
            f"reward.smoothing_from_votes is set, but none of {len(rows)} comparisons has votes;"
            " expected columns votes_for and votes_against, or votes. Map them with"
            " data.comparisons.columns, or set reward.label_smoothing instead."
        )
    smoothing = [config.label_smoothing if share is None else share for share in shares]
    return Labels(margin_N, torch.tensor(smoothing), weight_N)


def votes_against(row: dict) -> float | None:
    """Return the share of a pair's votes against its label; None without votes."""
    against = row.get("votes_against") or 0
    total = (row.get("votes_for") or 0) + against
    return against / total if total else None


def _strengths(rows: Sequence[dict]) -> list[float]:
    strengths = [row["strength"] for row in rows if row.get("strength") is not None]
    if missing := len(rows) - len(strengths):
        raise BadInput(
            f"reward.margin_scale is set, but {missing} of {len(rows)} comparisons have no"
            " strength; expected a number of 0 or more in each (column strength or margin, or"
            " another one mapped with data.comparisons.columns)."
        )
    return strengths

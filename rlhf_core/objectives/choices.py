"""Names that recipes and objectives share. Without torch, so that a recipe is read quickly."""

from typing import Literal

LossAggregation = Literal["tokens", "sequences", "constant"]
PolicyLoss = Literal["clip", "gspo", "cispo"]

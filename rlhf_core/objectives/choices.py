"""Names and ranges that recipes and objectives share.

Without torch, so that a recipe is read quickly.
"""

import math
from typing import Literal

LossAggregation = Literal["tokens", "sequences", "constant"]
PolicyLoss = Literal["clip", "gspo", "cispo"]

# distance of the clips below and above 1. gspo: Zheng et al. 2025, section 5.1. cispo: no lower
# bound (MiniMax 2025, section 3.1); weights of at most 5 (Khatri et al. 2025, arXiv:2510.13786)
CLIP_RANGES: dict[PolicyLoss, tuple[float, float]] = {
    "clip": (0.2, 0.2),
    "gspo": (3e-4, 4e-4),
    "cispo": (math.inf, 4.0),
}
WIDEST_GSPO_CLIP = 0.1  # 300 times the paper's

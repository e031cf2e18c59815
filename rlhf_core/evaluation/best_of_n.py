"""Best-of-n: of n replies by the SFT model, the one that the reward model scores highest.

A policy should at least beat it. Rejection sampling trains nothing and costs n generations per
reply. Its KL from the SFT model is bounded in closed form (Stiennon et al. 2020, arXiv:2009.01325,
app. G.3).
"""

import math

from torch import Tensor

from rlhf_core.evaluation.replies import Replies

NAME = "best_of_n"  # among the models whose replies are compared


def best(draws: list[Replies], scores_KN: Tensor) -> Replies:
    """Return for each of N prompts the draw that scores highest, the first of equal ones."""
    chosen_N = scores_KN.argmax(0).tolist()
    return Replies(
        sequences=[draws[k].sequences[i] for i, k in enumerate(chosen_N)],
        texts=[draws[k].texts[i] for i, k in enumerate(chosen_N)],
        ended=[draws[k].ended[i] for i, k in enumerate(chosen_N)],
    )


def kl_bound(n: int) -> float:
    """Return log n - (n - 1) / n, nats per response: an upper bound of KL(best-of-n || SFT).

    It is reached when no two replies are alike (Beirami et al. 2024, arXiv:2401.01879, theorem 1).
    """
    return math.log(n) - (n - 1) / n

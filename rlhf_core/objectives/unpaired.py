"""Objectives of unpaired feedback: one reply per row, with thumbs up or down.

Axes: B rows. up_B: True for thumbs up (desirable). Losses are sums divided by a count that the
caller takes over the whole optimizer step, as in losses.py.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def kto(
    logratio_B: Tensor,
    up_B: Tensor,
    denominator: float,
    *,
    beta: float,
    reference_kl: float,
    weights: tuple[float, float] = (1.0, 1.0),
) -> Tensor:
    """Return sum w (1 - sigmoid(s beta (log-ratio - z0))) / denominator.

    s = 1 and w = weights[0] for thumbs up, s = -1 and w = weights[1] for thumbs down. log-ratio:
    sum over response tokens of log pi - log pi_ref, nats. z0: `reference_kl`, without gradient.
    Ethayarajh et al. 2024, arXiv:2402.01306, eq. 7.
    """
    sign_B = _signs(logratio_B, up_B)
    value_B = (sign_B * beta * (logratio_B - reference_kl)).sigmoid()
    return (_weights(logratio_B, up_B, weights) * (1 - value_B)).sum() / denominator


def mismatched_kl(logratio_N: Tensor) -> float:
    """Return z0, max(0, mean log-ratio) over prompts with replies to other prompts, nats.

    It estimates KL(pi || pi_ref) with a bias, since the replies are not the policy's own.
    Ethayarajh et al. 2024, arXiv:2402.01306, section 4.1.
    """
    return max(0.0, float(logratio_N.mean()))


def label_loss(
    scores_B: Tensor, up_B: Tensor, denominator: float, *, weights: tuple[float, float] = (1.0, 1.0)
) -> Tensor:
    """Return -sum w log sigmoid(s score) / denominator: the binary cross-entropy of labels.

    s = 1 and w = weights[0] for thumbs up, s = -1 and w = weights[1] for thumbs down.
    """
    return (
        -(_weights(scores_B, up_B, weights) * F.logsigmoid(_signs(scores_B, up_B) * scores_B)).sum()
        / denominator
    )


def label_weights(
    up: int, down: int, *, desirable: float | None = None, undesirable: float | None = None
) -> tuple[float, float]:
    """Return the weights of thumbs up and down; None: so that both labels weigh the same.

    up, down: training rows. With both None the more frequent label has weight 1. With one of them
    the other follows from it: up * desirable = down * undesirable, the least of the ratios that
    Ethayarajh et al. 2024, arXiv:2402.01306, eq. 8, allows.
    """
    if desirable is not None and undesirable is not None:
        return desirable, undesirable
    if desirable is not None:
        return desirable, desirable * up / down
    if undesirable is not None:
        return undesirable * down / up, undesirable
    most = max(up, down)
    return most / up, most / down


def _signs(like_B: Tensor, up_B: Tensor) -> Tensor:
    one = torch.ones_like(like_B)
    return torch.where(up_B, one, -one)


def _weights(like_B: Tensor, up_B: Tensor, weights: tuple[float, float]) -> Tensor:
    up, down = (torch.full_like(like_B, weight) for weight in weights)
    return torch.where(up_B, up, down)

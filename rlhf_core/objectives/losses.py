"""The objectives that gradients flow through, as small pure functions of tensors and plain floats.

Axes: B rows, R response tokens, V vocabulary. Masks are True at real response tokens, EOS included.
Entries where the mask is False, even NaN, reach neither a value nor a gradient. Half-precision
logits are widened to float32, float64 stays. Log-probabilities are nats. A loss is a sum divided by
a count. The caller takes this count over the whole optimizer step, so that splitting a batch into
microbatches changes no gradient.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from rlhf_core.objectives.choices import LossAggregation


def widened(logits: Tensor) -> Tensor:
    """Return half-precision logits in float32; others as they are, the same tensor."""
    return logits if logits.dtype == torch.float64 else logits.float()


def tempered(logits_BRV: Tensor, temperature: float) -> Tensor:
    """Return logits / temperature, the distribution that the sampler draws from, (B, R, V).

    At temperature 1 this is the same tensor.
    """
    return logits_BRV if temperature == 1.0 else widened(logits_BRV) / temperature


def token_logprobs(logits_BRV: Tensor, ids_BR: Tensor) -> Tensor:
    """Return log softmax(logits)[id], (B, R), without a second tensor of size V in memory."""
    logits_BRV = widened(logits_BRV)
    picked_BR = logits_BRV.gather(-1, ids_BR.unsqueeze(-1)).squeeze(-1)
    return picked_BR - logits_BRV.logsumexp(-1)


def token_entropy(logits_BRV: Tensor) -> Tensor:
    """Return -sum_v p log p, (B, R) nats."""
    logits_BRV = widened(logits_BRV)
    return logits_BRV.logsumexp(-1) - (logits_BRV.softmax(-1) * logits_BRV).sum(-1)


def masked_sum(values_BR: Tensor, mask_BR: Tensor) -> Tensor:
    """Return the sum where the mask is True; entries where it is False, even NaN, do not matter."""
    return values_BR.masked_fill(~mask_BR, 0.0).sum()


def sequence_sum(values_BR: Tensor, mask_BR: Tensor) -> Tensor:
    """Return the sum over each row's real tokens, (B,).

    DPO compares such sums of log-probabilities.
    """
    return values_BR.masked_fill(~mask_BR, 0.0).sum(-1)


# Aggregation: token losses (B, R) -> one number


def aggregate(
    loss_BR: Tensor, mask_BR: Tensor, kind: LossAggregation, denominator: float
) -> Tensor:
    """Return these rows' part of the step's loss; denominator: that of `step_denominator`."""
    if kind == "sequences":
        return sequence_mean_token_mean(loss_BR, mask_BR, denominator)
    return token_mean(loss_BR, mask_BR, denominator)


def step_denominator(mask_BR: Tensor, kind: LossAggregation, *, length: int) -> int:
    """Return the number by which `aggregate` divides, at least 1.

    mask_BR: all rows of the optimizer step, of every microbatch and rank. Then no token's weight
    depends on how the step is split.

    tokens      the step's real tokens
    sequences   the step's responses that have a real token
    constant    length * the step's responses, where `length` is the longest response allowed
    """
    if kind == "tokens":
        return max(1, int(mask_BR.sum()))
    if kind == "sequences":
        return max(1, int(mask_BR.any(-1).sum()))
    return length * len(mask_BR)


def token_mean(loss_BR: Tensor, mask_BR: Tensor, tokens: float) -> Tensor:
    """Return sum(loss) / tokens, where `tokens` counts the step's real tokens.

    Long responses therefore weigh more. Yu et al. 2025, arXiv:2503.14476, section 3.3.
    """
    return masked_sum(loss_BR, mask_BR) / tokens


def sequence_mean_token_mean(loss_BR: Tensor, mask_BR: Tensor, sequences: float) -> Tensor:
    """Return sum_b (sum_t loss_bt / length_b) / sequences, so that every response weighs the same.

    A fully masked row gives 0; `sequences` is the step's count of the others. Shao et al. 2024,
    arXiv:2402.03300, eq. 3.
    """
    return (sequence_sum(loss_BR, mask_BR) / mask_BR.sum(-1).clamp(min=1)).sum() / sequences


def sequence_mean_token_sum(
    loss_BR: Tensor, mask_BR: Tensor, sequences: float, *, length: float = 1.0
) -> Tensor:
    """Return sum_b sum_t loss_bt / (length * sequences).

    A constant `length` (tokens) in place of each response's own removes the length bias. Liu et al.
    2025, Dr. GRPO, arXiv:2503.20783, section 3.1.
    """
    return masked_sum(loss_BR, mask_BR) / (length * sequences)


# Supervised and preference losses


def cross_entropy(logprobs_BR: Tensor, mask_BR: Tensor, denominator: float) -> Tensor:
    """Return -sum(mask * logp) / denominator, nats per token: the prompt-masked SFT loss."""
    return -masked_sum(logprobs_BR, mask_BR) / denominator


def bradley_terry(
    chosen_B: Tensor,
    rejected_B: Tensor,
    denominator: float,
    *,
    margin: Tensor | float = 0.0,
    smoothing: Tensor | float = 0.0,
    weight: Tensor | float = 1.0,
) -> Tensor:
    """Return -sum w [(1 - s) log sigmoid(d) + s log sigmoid(-d)] / denominator.

    d = r_chosen - r_rejected - margin. Ouyang et al. 2022, arXiv:2203.02155, eq. 1. margin (score):
    Touvron et al. 2023 (Llama 2), arXiv:2307.09288, eq. 2. smoothing s: probability that the label
    is wrong, (B,) or one float, e.g. 1 - annotator agreement. weight w: of each pair.
    """
    losses_B = _smoothed_logistic(chosen_B - rejected_B - margin, smoothing)
    return (weight * losses_B).sum() / denominator


def reward_centring(
    chosen_B: Tensor, rejected_B: Tensor, denominator: float, *, weight: Tensor | float = 1.0
) -> Tensor:
    """Return sum w (r_chosen + r_rejected)^2 / denominator.

    Added with a weight of about 0.01 it keeps scores near 0, which Bradley-Terry leaves free.
    Eisenstein et al. 2023, arXiv:2312.09244. weight w: of each pair.
    """
    return (weight * (chosen_B + rejected_B) ** 2).sum() / denominator


def dpo(
    chosen_logratio_B: Tensor,
    rejected_logratio_B: Tensor,
    denominator: float,
    *,
    beta: float,
    smoothing: Tensor | float = 0.0,
    weight: Tensor | float = 1.0,
) -> Tensor:
    """Return -sum w [(1 - s) log sigmoid(beta h) + s log sigmoid(-beta h)] / denominator.

    h = chosen - rejected log-ratio; log-ratio: sum over response tokens of log pi - log pi_ref,
    nats. Rafailov et al. 2023, arXiv:2305.18290, eq. 7. With s > 0, the probability that a label is
    wrong, it is conservative DPO (Mitchell 2023, "A note on DPO with noisy preferences"). weight w:
    of each pair.
    """
    losses_B = _smoothed_logistic(beta * (chosen_logratio_B - rejected_logratio_B), smoothing)
    return (weight * losses_B).sum() / denominator


def ipo(
    chosen_logratio_B: Tensor,
    rejected_logratio_B: Tensor,
    denominator: float,
    *,
    beta: float,
    weight: Tensor | float = 1.0,
) -> Tensor:
    """Return sum w (h - 1 / (2 beta))^2 / denominator, h as in `dpo`.

    Azar et al. 2023, arXiv:2310.12036, eq. 17; beta is its tau. weight w: of each pair.
    """
    squares_B = (chosen_logratio_B - rejected_logratio_B - 1 / (2 * beta)) ** 2
    return (weight * squares_B).sum() / denominator


def _smoothed_logistic(difference_B: Tensor, smoothing: Tensor | float) -> Tensor:
    # (1 - s) log sigmoid(d) + s log sigmoid(-d) = log sigmoid(d) - s d: no second logarithm, and
    # exact at s = 0
    return smoothing * difference_B - F.logsigmoid(difference_B)


# Policy and value losses of one token


def probability_ratio(new_logprobs_BR: Tensor, old_logprobs_BR: Tensor, mask_BR: Tensor) -> Tensor:
    """Return rho = exp(new - old), (B, R), 1 at padding."""
    return (new_logprobs_BR - old_logprobs_BR).masked_fill(~mask_BR, 0.0).exp()


def sequence_ratio(new_logprobs_BR: Tensor, old_logprobs_BR: Tensor, mask_BR: Tensor) -> Tensor:
    """Return sg[s] pi / sg[pi] at each token, (B, R), 1 at padding; sg: without gradient.

    s = exp(mean over the response's tokens of new - old), the response's ratio, is the value at
    each of its tokens. The gradient is s times that of the token's log-probability. Zheng et al.
    2025, GSPO, arXiv:2507.18071, eq. 7 and, with a gradient by token, eq. 14 (GSPO-token). A mean
    over the response's tokens gives both the same loss and gradient when they share an advantage.
    """
    log_ratio_BR = (new_logprobs_BR - old_logprobs_BR).masked_fill(~mask_BR, 0.0)
    lengths_B1 = mask_BR.sum(-1, keepdim=True).clamp(min=1)
    log_s_B1 = log_ratio_BR.detach().sum(-1, keepdim=True) / lengths_B1
    own_BR = new_logprobs_BR.masked_fill(~mask_BR, 0.0)
    return (own_BR - own_BR.detach() + log_s_B1.masked_fill(~mask_BR, 0.0)).exp()


def clipped_importance(
    new_logprobs_BR: Tensor,
    ratio_BR: Tensor,
    advantages_BR: Tensor,
    mask_BR: Tensor,
    *,
    clip_low: float,
    clip_high: float,
) -> Tensor:
    """Return -sg[clip(rho, 1 - clip_low, 1 + clip_high)] A log pi, (B, R); sg: without gradient.

    The clip bounds a token's weight, and no token loses its gradient. clip_low of 1 or more: no
    lower bound. MiniMax 2025, CISPO, arXiv:2506.13585, eq. 4 and 5.
    """
    weight_BR = ratio_BR.detach().clamp(1 - clip_low, 1 + clip_high)
    return -weight_BR * advantages_BR * new_logprobs_BR.masked_fill(~mask_BR, 0.0)


def clipped_surrogate(
    ratio_BR: Tensor,
    advantages_BR: Tensor,
    *,
    clip_low: float,
    clip_high: float,
    dual_clip: float | None = None,
) -> Tensor:
    """Return -min(rho A, clip(rho, 1 - clip_low, 1 + clip_high) A), (B, R).

    Schulman et al. 2017, arXiv:1707.06347, eq. 7. clip_high > clip_low lets rare tokens grow (Yu et
    al. 2025, arXiv:2503.14476, section 3.1). dual_clip c > 1: where A < 0 the loss is at most -c A,
    so that a large ratio cannot dominate (Ye et al. 2020, arXiv:1912.09729).
    """
    gain_BR = torch.minimum(
        ratio_BR * advantages_BR, ratio_BR.clamp(1 - clip_low, 1 + clip_high) * advantages_BR
    )
    if dual_clip is not None:
        gain_BR = torch.where(
            advantages_BR < 0, torch.maximum(gain_BR, dual_clip * advantages_BR), gain_BR
        )
    return -gain_BR


def clipped_value_error(
    new_values_BR: Tensor,
    old_values_BR: Tensor,
    returns_BR: Tensor,
    mask_BR: Tensor,
    *,
    clip: float | None,
) -> Tensor:
    """Return 1/2 max((V - G)^2, (V_clipped - G)^2), (B, R).

    V_clipped is V within `clip` of the old value; None: not clipped. Huang et al. 2024,
    arXiv:2403.17031, detail 14.
    """
    error_BR = (new_values_BR - returns_BR).masked_fill(~mask_BR, 0.0) ** 2
    if clip is None:
        return 0.5 * error_BR
    clipped_BR = old_values_BR + (new_values_BR - old_values_BR).clamp(-clip, clip)
    return 0.5 * torch.maximum(error_BR, (clipped_BR - returns_BR).masked_fill(~mask_BR, 0.0) ** 2)

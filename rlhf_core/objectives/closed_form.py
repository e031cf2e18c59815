"""Log-probability and entropy of tokens with gradients in closed form.

They are token_logprobs and token_entropy of `tempered` logits, with fewer tensors of size V in
memory: autograd alone holds four in a backward pass without entropy, here two do.
Axes: T tokens, V vocabulary.
"""

from typing import Any

import torch
from torch import Tensor

from rlhf_core.objectives.losses import widened


def logprobs_and_entropy(
    logits_TV: Tensor, ids_T: Tensor, *, temperature: float = 1.0, entropy: bool = False
) -> tuple[Tensor, Tensor | None]:
    """Return log p of each token's own id, and with `entropy` -sum_v p log p, (T,) nats each.

    p = softmax(logits / temperature). Half-precision logits are widened to float32. Gradients have
    no gradients of their own.
    """
    logprobs_T, entropy_T = _LogprobsAndEntropy.apply(logits_TV, ids_T, temperature, entropy)
    return logprobs_T, entropy_T if entropy else None


class _LogprobsAndEntropy(torch.autograd.Function):
    """With x = logits / temperature, l = logsumexp(x) and H the entropy.

    d log p_i / dx_v = [i = v] - p_v. dH / dx_v = -p_v (log p_v + H).
    """

    @staticmethod
    def forward(
        ctx: Any, logits_TV: Tensor, ids_T: Tensor, temperature: float, entropy: bool
    ) -> tuple[Tensor, Tensor]:
        x_TV = _scaled(logits_TV, temperature)
        lse_T1 = x_TV.logsumexp(-1, keepdim=True)
        logprobs_T = (x_TV.gather(-1, ids_T[:, None]) - lse_T1).squeeze(-1)
        entropy_T = torch.zeros_like(logprobs_T)
        if entropy:
            entropy_T = lse_T1.squeeze(-1) - (x_TV - lse_T1).exp_().mul_(x_TV).sum(-1)
        ctx.save_for_backward(logits_TV, ids_T, lse_T1, entropy_T)
        ctx.temperature, ctx.entropy = temperature, entropy
        return logprobs_T, entropy_T

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, of_logprobs_T: Tensor, of_entropy_T: Tensor) -> tuple:
        logits_TV, ids_T, lse_T1, entropy_T = ctx.saved_tensors
        log_p_TV = _scaled(logits_TV, ctx.temperature)
        # in place, unless it is the saved tensor itself
        new = log_p_TV is not logits_TV
        log_p_TV = log_p_TV.sub_(lse_T1) if new else log_p_TV - lse_T1
        if ctx.entropy:
            weights_TV = log_p_TV.add(entropy_T[:, None]).mul_(of_entropy_T[:, None])
            weights_TV.add_(of_logprobs_T[:, None])
            gradient_TV = log_p_TV.exp_().mul_(weights_TV).neg_()
            del weights_TV
        else:
            gradient_TV = log_p_TV.exp_().mul_(-of_logprobs_T[:, None])
        gradient_TV.scatter_add_(-1, ids_T[:, None], of_logprobs_T[:, None])
        return gradient_TV.div_(ctx.temperature).to(logits_TV.dtype), None, None, None


def _scaled(logits_TV: Tensor, temperature: float) -> Tensor:
    x_TV = widened(logits_TV)
    return x_TV if temperature == 1.0 else x_TV / temperature

"""Models for the parts of a PPO step."""

import pytest
import torch
from torch import nn

from rlhf_core.modeling.models import load_policy, load_scalar


@pytest.fixture(scope="module")
def models(tiny_model) -> tuple[nn.Module, nn.Module, nn.Module]:
    """Policy, critic, and a reference that differs from the policy."""
    policy, reference = load_policy(tiny_model), load_policy(tiny_model)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for head in (policy.model.lm_head, reference.model.lm_head):
            head.weight.copy_(0.2 * torch.randn(head.weight.shape, generator=generator))
    return policy, load_scalar(tiny_model, new_head=True, seed=3), reference

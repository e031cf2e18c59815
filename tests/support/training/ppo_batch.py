"""A small rollout of PPO, the experience that models make of it, and a batch with its logits."""

import copy
import random

import torch
from plain import FixedEngine, no_functions
from torch import Tensor

from rlhf_core.batching.batch import Sequence, collate
from rlhf_core.config import PPO
from rlhf_core.modeling.models import PolicyModel, ScalarModel, inference
from rlhf_core.ppo.experience import Experience, make_experience
from rlhf_core.ppo.rollout import Rollout
from rlhf_core.ppo.scoring import Models

SEQUENCES = [
    Sequence([2, 3], [4, 5, 1]),
    Sequence([2, 3], [6, 1]),
    Sequence([4], [5, 5, 5, 1]),
    Sequence([4], [1]),
]
V = 7  # tokens of the vocabulary of SEQUENCES


def seeded(*shape: int, seed: int = 0) -> Tensor:
    """Return normal numbers in float64 that depend on the seed alone."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


BATCH = collate(SEQUENCES, 0)
MASK = BATCH.response_mask_BR.cpu()
LOGITS = seeded(*MASK.shape, V)


def rollout() -> Rollout:
    """Make eight responses of one to nine tokens."""
    rng = random.Random(3)
    sizes = [(rng.randint(1, 5), rng.randint(1, 9)) for _ in range(8)]
    sequences = [
        Sequence(rng.choices(range(6, 60), k=p), rng.choices(range(6, 60), k=r)) for p, r in sizes
    ]
    return Rollout(sequences, [[-4.0] * len(s.response) for s in sequences], [True] * 8, 0.0)


def experience(
    models: tuple[PolicyModel, ScalarModel, PolicyModel], config: PPO, given: Rollout | None = None
) -> Experience:
    """Score a rollout by policy, critic and reference; the critic is the reward model too."""
    policy, critic, reference = (
        inference(copy.deepcopy(model), dtype="float32") for model in models
    )
    return make_experience(
        given or rollout(),
        Models(FixedEngine(policy), FixedEngine(critic), reference, (critic,), no_functions),
        config,
        beta=0.1,
        pad_id=0,
    )

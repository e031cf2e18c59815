"""A small rollout of PPO, and the experience that models make of it."""

import copy
import random

from plain import FixedEngine, no_functions

from rlhf_core.batching.batch import Sequence
from rlhf_core.config import PPO
from rlhf_core.modeling.models import inference
from rlhf_core.ppo.experience import Experience, make_experience
from rlhf_core.ppo.rollout import Rollout
from rlhf_core.ppo.scoring import Models


def rollout() -> Rollout:
    """Make eight responses of one to nine tokens."""
    rng = random.Random(3)
    sizes = [(rng.randint(1, 5), rng.randint(1, 9)) for _ in range(8)]
    sequences = [
        Sequence(rng.choices(range(6, 60), k=p), rng.choices(range(6, 60), k=r)) for p, r in sizes
    ]
    return Rollout(sequences, [[-4.0] * len(s.response) for s in sequences], [True] * 8, 0.0)


def experience(models, config: PPO) -> Experience:
    """Score the rollout by policy, critic and reference; the critic is the reward model too."""
    policy, critic, reference = (
        inference(copy.deepcopy(model), dtype="float32") for model in models
    )
    return make_experience(
        rollout(),
        Models(FixedEngine(policy), FixedEngine(critic), reference, (critic,), no_functions),
        config,
        beta=0.1,
        pad_id=0,
    )

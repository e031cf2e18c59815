"""What the PPO loop carries from step to step besides weights; a checkpoint keeps it."""

from dataclasses import dataclass

import torch

from rlhf_core.config import PPO
from rlhf_core.objectives.advantages import Moments
from rlhf_core.objectives.kl import adapt_beta
from rlhf_core.ppo.rewards import NO_SCORES


@dataclass(frozen=True)
class LoopState:
    """beta: KL coefficient of the next step, score per nat; scores: moments of all responses'
    scores so far.
    """

    beta: float
    scores: Moments

    @classmethod
    def first(cls, config: PPO) -> "LoopState":
        return cls(config.beta, NO_SCORES)

    def after(self, kl: float, scores: Moments, config: PPO) -> "LoopState":
        """The next step's; kl: of this step, nats per response."""
        beta = self.beta
        if config.kl_controller == "adaptive":
            horizon, responses = config.kl_horizon, config.rollout_batch
            beta = adapt_beta(
                beta, kl, target=config.kl_target, horizon=horizon, responses=responses
            )
        return LoopState(beta, scores)

    def as_json(self) -> dict:
        """JSON keeps every bit of a float64."""
        return {"beta": self.beta, "scores": [float(value) for value in self.scores]}

    @classmethod
    def from_json(cls, kept: dict) -> "LoopState":
        return cls(
            kept["beta"],
            Moments(*(torch.tensor(value, dtype=torch.float64) for value in kept["scores"])),
        )

"""The state that the PPO loop carries from step to step, and its checkpoints."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from rlhf_core.config import PPO
from rlhf_core.engine.base import Engine
from rlhf_core.engine.checkpoint import Checkpoint, load_checkpoint
from rlhf_core.engine.state_layout import Layout
from rlhf_core.objectives.advantages import Moments
from rlhf_core.objectives.kl import adapt_beta
from rlhf_core.ppo.rewards import NO_SCORES
from rlhf_core.ppo.rollout import Rollout


@dataclass(frozen=True)
class LoopState:
    """The state that the next step starts from, besides weights.

    beta: KL coefficient, score per nat. scores: moments of all responses' scores so far. cursor:
    place in the seeded order of prompts at which the next step goes on.
    """

    beta: float
    scores: Moments
    cursor: int

    @classmethod
    def first(cls, config: PPO) -> "LoopState":
        """Return the state before the first step."""
        return cls(config.beta, NO_SCORES, cursor=0)

    def after(self, kl: float, scores: Moments, config: PPO, rollout: Rollout) -> "LoopState":
        """Return the state after the step of a rollout; kl: of that step, nats per response."""
        beta = self.beta
        if config.kl_controller == "adaptive":
            beta = adapt_beta(
                beta,
                kl,
                target=config.kl_target,
                horizon=config.kl_horizon,
                responses=len(rollout.sequences),
            )
        return LoopState(beta, scores, rollout.cursor)

    def as_json(self) -> dict:
        """Return the state as JSON values, which keep every bit of a float64."""
        scores = [float(value) for value in self.scores]
        return {"beta": self.beta, "scores": scores, "cursor": self.cursor}

    @classmethod
    def from_json(cls, kept: dict) -> "LoopState":
        """Return the state that `as_json` gave."""
        return cls(
            kept["beta"],
            Moments(*(torch.tensor(value, dtype=torch.float64) for value in kept["scores"])),
            kept["cursor"],
        )


def resume(folder: Path, engines: Mapping[str, Engine], config: PPO) -> tuple[int, LoopState]:
    """Load the newest checkpoint into the engines; return the steps done and the loop's state.

    Without a checkpoint: 0 steps, and the first state.
    """
    checkpoint = load_checkpoint(folder, _layouts(engines))
    if checkpoint is None:
        return 0, LoopState.first(config)
    for name, engine in engines.items():
        prefix = f"{name}/"
        engine.load_state(
            {
                key.removeprefix(prefix): value
                for key, value in checkpoint.tensors.items()
                if key.startswith(prefix)
            }
        )
    return checkpoint.step, LoopState.from_json(checkpoint.extra)


def checkpoint_of(step: int, engines: Mapping[str, Engine], state: LoopState) -> Checkpoint:
    """Return the checkpoint after `step`."""
    tensors = {
        f"{name}/{key}": value
        for name, engine in engines.items()
        for key, value in engine.state().items()
    }
    return Checkpoint(step, tensors, state.as_json(), _layouts(engines))


def _layouts(engines: Mapping[str, Engine]) -> dict[str, Layout]:
    return {f"{name}/": engine.layout() for name, engine in engines.items()}

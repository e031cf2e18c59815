"""The state that the PPO loop carries from step to step, and its checkpoints."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from rlhf_core.config import PPO
from rlhf_core.engine.base import Engine
from rlhf_core.engine.checkpoint import Checkpoint, load_checkpoint
from rlhf_core.engine.state_layout import Layout
from rlhf_core.objectives.advantages import Moments
from rlhf_core.objectives.kl import adapt_beta
from rlhf_core.ppo.rewards import NO_SCORES
from rlhf_core.ppo.rollout import Generated, Rollout

PENDING = "pending"  # in a checkpoint: begin of the names of the responses of the next step


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


class Resumed(NamedTuple):
    """The place at which the loop goes on.

    pending: the responses of the next step, where they were generated ahead.
    """

    step: int  # the last one that is learned
    state: LoopState
    pending: Generated | None = None


def resume(folder: Path, engines: Mapping[str, Engine], config: PPO) -> Resumed:
    """Load the newest checkpoint into the engines; return where the loop goes on.

    Without a checkpoint: after step 0, with the first state.
    """
    checkpoint = load_checkpoint(folder, _layouts(engines))
    if checkpoint is None:
        return Resumed(0, LoopState.first(config))
    for name, engine in engines.items():
        engine.load_state(_below(name, checkpoint.tensors))
    kept = _below(PENDING, checkpoint.tensors)
    pending = Generated.of(kept) if kept else None
    return Resumed(checkpoint.step, LoopState.from_json(checkpoint.extra), pending)


def _below(name: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors whose names begin with `name/`, by the rest of their names."""
    prefix = f"{name}/"
    return {
        key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)
    }


def checkpoint_of(
    step: int, engines: Mapping[str, Engine], state: LoopState, pending: Generated | None = None
) -> Checkpoint:
    """Return the checkpoint after `step`.

    pending: the responses of the next step, where they were generated ahead. Older weights gave
    them, so that they could not be generated again.
    """
    parts = {name: engine.state() for name, engine in engines.items()}
    parts |= {PENDING: pending.tensors()} if pending else {}
    tensors = {f"{name}/{key}": value for name, own in parts.items() for key, value in own.items()}
    return Checkpoint(step, tensors, state.as_json(), _layouts(engines))


def _layouts(engines: Mapping[str, Engine]) -> dict[str, Layout]:
    return {f"{name}/": engine.layout() for name, engine in engines.items()}

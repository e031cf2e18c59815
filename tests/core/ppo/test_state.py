"""The loop's state in a checkpoint."""

import json

import pytest
import torch

from rlhf_core.batching.batch import Sequence
from rlhf_core.config import PPO
from rlhf_core.objectives.advantages import merge_moments
from rlhf_core.ppo.rewards import score_moments
from rlhf_core.ppo.rollout import Rollout
from rlhf_core.ppo.state import LoopState


def rollout_of(responses: int, *, cursor: int = 0) -> Rollout:
    return Rollout([Sequence([1], [2])] * responses, [], [], seconds=1.0, cursor=cursor)


def test_the_loops_state_survives_a_checkpoint_bit_for_bit():
    config = PPO(kl_controller="adaptive", kl_target=2.0, kl_horizon=300, rollout_batch=64)

    def steps(state: LoopState, numbers: range, *, interrupted: bool) -> LoopState:
        for step in numbers:
            score_B = torch.randn(64, generator=torch.Generator().manual_seed(step))
            scores = merge_moments(state.scores, score_moments(score_B))
            rollout = rollout_of(64, cursor=state.cursor + step)
            state = state.after(0.1 * step, scores, config, rollout)
            if interrupted:
                state = LoopState.from_json(json.loads(json.dumps(state.as_json())))
        return state

    whole = steps(LoopState.first(config), range(1, 30), interrupted=False)
    resumed = steps(LoopState.first(config), range(1, 30), interrupted=True)
    assert whole.beta != config.beta and float(whole.scores.n) == 64 * 29
    assert whole.cursor == resumed.cursor == 29 * 30 // 2
    assert whole.beta == resumed.beta and all(
        a.equal(b) for a, b in zip(whole.scores, resumed.scores, strict=True)
    )


def test_the_adaptive_controller_counts_the_responses_that_were_learned():
    """Dynamic sampling leaves fewer than rollout_batch; by hand 0.1 * (1 + 0.2 * 16 / 320)."""
    config = PPO(beta=0.1, kl_controller="adaptive", kl_target=1.0, kl_horizon=320)
    state = LoopState.first(config).after(9.0, score_moments(torch.ones(2)), config, rollout_of(16))
    assert state.beta == pytest.approx(0.1 * 1.01)

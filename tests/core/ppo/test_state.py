"""The loop's state in a checkpoint."""

import json

import torch

from rlhf_core.config import PPO
from rlhf_core.objectives.advantages import merge_moments
from rlhf_core.ppo.rewards import score_moments
from rlhf_core.ppo.state import LoopState


def test_the_loops_state_survives_a_checkpoint_bit_for_bit():
    config = PPO(kl_controller="adaptive", kl_target=2.0, kl_horizon=300, rollout_batch=64)

    def steps(state: LoopState, numbers: range, *, interrupted: bool) -> LoopState:
        for step in numbers:
            score_B = torch.randn(64, generator=torch.Generator().manual_seed(step))
            scores = merge_moments(state.scores, score_moments(score_B))
            state = state.after(0.1 * step, scores, config, cursor=state.cursor + step)
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

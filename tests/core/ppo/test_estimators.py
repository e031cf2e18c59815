"""Estimators: advantages, the KL in the reward, and importance weights.

Each option changes what it says and nothing else.
"""

from dataclasses import replace

import pytest
import torch
from plain import FixedEngine, answering, no_functions
from ppo_batch import LOGITS, MASK, SEQUENCES, experience, seeded
from torch import Tensor, tensor

from rlhf_core.batching.batch import Batch
from rlhf_core.config import PPO, load_recipe
from rlhf_core.engine.base import Forward
from rlhf_core.errors import ConfigError
from rlhf_core.objectives.advantages import grpo_advantages, rloo_advantages, whiten
from rlhf_core.ppo.estimators import estimate_advantages
from rlhf_core.ppo.experience import Experience, make_experience
from rlhf_core.ppo.metrics import step_metrics
from rlhf_core.ppo.rewards import NO_SCORES, RewardModelScores, shape_rewards
from rlhf_core.ppo.rollout import Rollout
from rlhf_core.ppo.scoring import Models


def fixed(logits: Tensor, scores: Tensor) -> Models:
    """Models with one answer, whatever the rows: the whole batch is one microbatch."""

    def policy(scale: float) -> Forward:
        return answering(lambda batch: scale * logits[: len(batch.mask_BL)].float())

    def scalar(batch: Batch) -> Tensor:
        return scores[:, None].expand(len(scores), batch.response_mask_BR.shape[1] + 1).float()

    return Models(
        FixedEngine(policy(1.0)), FixedEngine(scalar), policy(0.5), (scalar,), no_functions
    )


def made(config: PPO, *, critic: bool = True) -> Experience:
    """Experience of SEQUENCES in the order of microbatches, so that rows keep their places."""
    rows = sorted(SEQUENCES, key=len)
    logprobs = [[-3.0] * len(s.response) for s in rows]
    models = fixed(LOGITS, tensor([1.0, 2.0, 4.0, 7.0]))
    models = models if critic else replace(models, critic=None)
    return make_experience(
        Rollout(rows, logprobs, [True] * 4, 0.0), models, config, beta=0.5, pad_id=0
    )


@pytest.mark.parametrize("estimator", ["k1", "k2", "k3"])
def test_kl_estimator_shapes_the_reward(estimator):
    x = made(PPO(kl_estimator=estimator))
    mask = x.batch.response_mask_BR
    d = (x.outputs.old_logprobs_BR - x.outputs.ref_logprobs_BR)[mask]
    kl = {"k1": d, "k2": d**2 / 2, "k3": (-d).exp() - 1 + d}[estimator]
    assert float(x.reward_B.sum()) == pytest.approx(14.0 - 0.5 * float(kl.sum()), abs=1e-4)
    assert x.outputs.kl_BR[mask].equal(d)  # what is reported and budgeted stays k1


def test_kl_in_the_loss_is_not_in_the_reward_too():
    assert made(PPO(kl_in="loss", kl_estimator="k3")).reward_B.tolist() == [1.0, 2.0, 4.0, 7.0]


def test_importance_cap_bounds_the_ratio_of_trainer_to_sampler():
    mask = made(PPO()).batch.response_mask_BR
    assert made(PPO()).estimates.importance_BR.equal(mask.float())
    x = made(PPO(importance_cap=1.5))
    expected = (x.outputs.old_logprobs_BR + 3.0).exp().clamp(max=1.5)
    torch.testing.assert_close(x.estimates.importance_BR[mask], expected[mask])
    assert (
        float(x.estimates.importance_BR.max()) == 1.5 and not x.estimates.importance_BR[~mask].any()
    )


def test_importance_of_a_sequence_is_the_capped_product_at_all_its_tokens(models):
    for level in ("token", "sequence"):
        config = PPO(importance_cap=2.0, importance_level=level)
        x = experience(models, config)
        mask_BR = x.batch.response_mask_BR
        log_ratio_BR = (x.outputs.old_logprobs_BR - x.sampler_logprobs_BR).masked_fill(
            ~mask_BR, 0.0
        )
        if level == "sequence":
            log_ratio_BR = log_ratio_BR.sum(-1, keepdim=True).expand_as(log_ratio_BR)
        expected_BR = log_ratio_BR.exp().clamp(max=2.0).masked_fill(~mask_BR, 0.0)
        torch.testing.assert_close(x.estimates.importance_BR, expected_BR)
        found = step_metrics(x, config)
        assert found["ppo/importance_mean"] == pytest.approx(
            float(expected_BR[mask_BR].mean()), rel=1e-5
        )
        assert found["ppo/importance_capped"] == pytest.approx(
            float((expected_BR[mask_BR] == 2.0).float().mean())
        )


def test_a_cut_response_is_worth_its_score_or_the_value_at_the_cut_by_hand():
    """Rows of 1, 2, 3 and 4 tokens with scores 1, 2, 4 and 7; the second and the last were cut.

    The critic says 10 * row + t after t tokens. gamma and lambda are 1, there is no KL: a return is
    the sum of the rewards to come and the value at the cut.
    """
    rows = sorted(SEQUENCES, key=len)
    ended = [True, False, True, False]

    def found(**options) -> Experience:
        config = PPO(gae_lambda=1.0, whiten_advantages=False, beta=0.0, **options)
        models = fixed(LOGITS, tensor([1.0, 2.0, 4.0, 7.0]))

        def critic(batch: Batch) -> Tensor:
            R1 = batch.response_mask_BR.shape[1] + 1
            return 10.0 * torch.arange(len(rows))[:, None] + torch.arange(R1)

        logprobs = [[-3.0] * len(s.response) for s in rows]
        given = Rollout(rows, logprobs, ended, 0.0)
        models = replace(models, critic=FixedEngine(critic))
        return make_experience(given, models, config, beta=0.0, pad_id=0)

    mask_BR = found().batch.response_mask_BR
    assert mask_BR.sum(-1).tolist() == [1, 2, 3, 4]
    terminal = found()
    assert found(truncated="terminal").estimates.returns_BR.equal(terminal.estimates.returns_BR)
    assert terminal.rewards.final_B.tolist() == [1.0, 2.0 - 1, 4.0, 7.0 - 1]
    assert [row[0] for row in terminal.estimates.returns_BR.tolist()] == [1.0, 1.0, 4.0, 6.0]
    cut = found(truncated="bootstrap", missing_eos_penalty=0.5)
    assert cut.rewards.score_B.tolist() == [1.0, 2.0, 4.0, 7.0]  # what is reported
    assert cut.rewards.final_B.tolist() == [1.0, -0.5, 4.0, -0.5]
    assert cut.outputs.end_values_B.tolist() == [1.0, 12.0, 23.0, 34.0]
    expected = tensor([[1.0], [12.0 - 0.5], [4.0], [34.0 - 0.5]]).where(mask_BR, tensor(0.0))
    assert cut.estimates.returns_BR.tolist() == expected.tolist()
    values_BR = cut.outputs.values_BR
    assert cut.estimates.advantages_BR.tolist() == (expected - values_BR).tolist()


def test_overlong_filtering_whitens_over_the_rows_that_count():
    """Rewards of 1, 3 and 9 at single tokens, the last one cut: mean 2, deviation 1 of the others.

    In a group the cut response's reward still counts in the baseline.
    """
    mask_BR, learned_B = torch.ones(3, 1, dtype=torch.bool), tensor([True, True, False])
    rewards_BR, values_BR = tensor([[1.0], [3.0], [9.0]]), torch.zeros(3, 1)
    for advantage in ("gae", "reinforce++"):
        advantages_BR, returns_BR = estimate_advantages(
            rewards_BR, values_BR, mask_BR, PPO(advantage=advantage), learned_B=learned_B
        )
        torch.testing.assert_close(advantages_BR, tensor([[-1.0], [1.0], [0.0]]))
        assert returns_BR.tolist() == [[1.0], [3.0], [9.0]]
    config = PPO(advantage="rloo", group_size=3, rollout_batch=3, minibatches=1)
    advantages_BR, _ = estimate_advantages(
        rewards_BR, values_BR, mask_BR, config, learned_B=learned_B
    )
    torch.testing.assert_close(advantages_BR, tensor([[1 - 6.0], [3 - 5.0], [9 - 2.0]]))


def test_the_uncertainty_of_a_score_that_is_not_paid_costs_nothing():
    model = RewardModelScores(tensor([3.0, 3.0]), torch.zeros(2, 1), tensor([2.0, 2.0]))
    mask, ended = tensor([[True], [True]]), tensor([True, False])
    for truncated, expected in (("terminal", [1.0, 0.0]), ("bootstrap", [1.0, -1.0])):
        config = PPO(truncated=truncated, uncertainty_penalty=0.5)
        rewards = shape_rewards(model, [], mask, ended, config, NO_SCORES)
        assert rewards.final_B.tolist() == expected


GROUPED = {"rollout_batch": 4, "group_size": 2}
REWARDS = seeded(*MASK.shape, seed=5).masked_fill(~MASK, 0.0)
SCORE, GROUP = REWARDS.sum(-1), tensor([0, 0, 1, 1])


def test_critic_free_advantages_compare_neighbouring_rows():
    def found(name: str) -> Tensor:
        config = PPO(advantage=name, **GROUPED)
        return estimate_advantages(REWARDS, torch.full(MASK.shape, float("nan")), MASK, config)[0]

    per_response = {
        "grpo": grpo_advantages(SCORE, GROUP),
        "dr_grpo": grpo_advantages(SCORE, GROUP, scale_by_std=False),
        "rloo": rloo_advantages(SCORE, GROUP),
    }
    for name, expected in per_response.items():
        torch.testing.assert_close(found(name), torch.where(MASK, expected[:, None], 0.0))
    centred = torch.where(MASK, (SCORE - SCORE.view(2, 2).mean(1)[GROUP])[:, None], 0.0)
    torch.testing.assert_close(found("reinforce++-baseline"), whiten(centred, MASK))
    returns = REWARDS.flip(-1).cumsum(-1).flip(-1).masked_fill(~MASK, 0.0)
    torch.testing.assert_close(found("reinforce++"), whiten(returns, MASK))


def test_experience_without_a_critic_has_no_values():
    config = PPO(advantage="grpo", **GROUPED)
    found = made(config, critic=False)
    assert not found.outputs.values_BR.any() and made(config).outputs.values_BR.any()
    assert found.estimates.advantages_BR.equal(made(config).estimates.advantages_BR)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["ppo.advantage='grpo'"], "expected group_size of 2 or more"),
        (["ppo.group_size=3"], "64 is not a multiple of group_size 3"),
        (["ppo.advantage='reinforce++'", "ppo.critic_warmup_steps=2"], "has no critic"),
        (
            [
                "ppo.truncated='bootstrap'",
                "ppo.advantage='rloo'",
                "ppo.group_size=2",
                "ppo.critic_warmup_steps=0",
            ],
            "advantage 'rloo' has no critic; set truncated to 'terminal'",
        ),
        (["ppo.kl_in='loss'"], "expected k2 or k3"),
        (["ppo.dual_clip=1.0"], "greater than 1"),
        (["ppo.importance_cap=0.5"], "greater than or equal to 1"),
        (["ppo.advantage='a2c'"], "dr_grpo"),
    ],
)
def test_options_that_do_not_fit_are_refused_with_a_reason(settings, message):
    with pytest.raises(ConfigError, match=message):
        load_recipe("quickstart", ["ppo.rollout_batch=64", *settings])

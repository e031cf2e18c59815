"""Each PPO option changes what it says and nothing else.

Pure tensors: logits in, loss and advantages out.
"""

import math
from dataclasses import replace

import pytest
import torch
from plain import FixedEngine, no_functions
from torch import Tensor, tensor

from rlhf_core.batching.batch import Batch, Sequence, collate
from rlhf_core.config import PPO, Sampling, load_recipe
from rlhf_core.errors import ConfigError
from rlhf_core.objectives.advantages import grpo_advantages, rloo_advantages, whiten
from rlhf_core.objectives.losses import tempered, token_entropy, token_logprobs
from rlhf_core.ppo.estimators import estimate_advantages
from rlhf_core.ppo.experience import Experience, ExperienceRows, make_experience
from rlhf_core.ppo.rollout import Rollout
from rlhf_core.ppo.scoring import Models
from rlhf_core.ppo.update import policy_objective

V = 7
SEQUENCES = [
    Sequence([2, 3], [4, 5, 1]),
    Sequence([2, 3], [6, 1]),
    Sequence([4], [5, 5, 5, 1]),
    Sequence([4], [1]),
]


def seeded(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


BATCH = collate(SEQUENCES, 0)
MASK = BATCH.response_mask_BR.cpu()
LOGITS = seeded(*MASK.shape, V)
LOGPROBS = token_logprobs(LOGITS, BATCH.response_ids_BR)
TOKENS = int(MASK.sum())


def part(**changes) -> ExperienceRows:
    """Old log-probabilities of which some make the ratio leave the clip range on either side."""
    tensors = {
        "old_logprobs_BR": LOGPROBS + 0.6 * seeded(*MASK.shape, seed=1) - 0.5,
        "ref_logprobs_BR": LOGPROBS + seeded(*MASK.shape, seed=2),
        "values_BR": torch.zeros(MASK.shape),
        "returns_BR": torch.zeros(MASK.shape),
        "advantages_BR": seeded(*MASK.shape, seed=3),
        "importance_BR": MASK.double(),
    }
    return ExperienceRows(batch=BATCH, beta=0.5, **tensors | changes)


def objective(config: PPO, given: ExperienceRows | None = None) -> float:
    return float(policy_objective(LOGITS, given or part(), config, TOKENS)[0])


def by_hand(low: float = 0.2, high: float = 0.2, dual: float = math.inf) -> float:
    """The surrogate as a loop over tokens."""
    x, total = part(), 0.0
    for row, column in MASK.nonzero().tolist():
        advantage = float(x.advantages_BR[row, column])
        ratio = math.exp(float(LOGPROBS[row, column] - x.old_logprobs_BR[row, column]))
        loss = -min(ratio * advantage, min(max(ratio, 1 - low), 1 + high) * advantage)
        total += min(loss, -dual * advantage) if advantage < 0 else loss
    return total / TOKENS


def test_defaults_are_the_symmetric_clip_alone():
    assert objective(PPO()) == pytest.approx(by_hand())
    assert PPO().has_critic and PPO().group_size == 1


def test_clip_high_widens_the_upper_side_only():
    assert objective(PPO(clip_high=0.6)) == pytest.approx(by_hand(high=0.6))
    assert by_hand(high=0.6) != pytest.approx(by_hand())


def test_dual_clip_bounds_the_loss_where_the_advantage_is_negative():
    assert objective(PPO(dual_clip=1.2)) == pytest.approx(by_hand(dual=1.2))
    assert by_hand(dual=1.2) < by_hand() - 1e-3


def test_importance_weighs_each_tokens_surrogate():
    weights = torch.rand(
        MASK.shape, generator=torch.Generator().manual_seed(4), dtype=torch.float64
    )
    singles = [
        objective(
            PPO(),
            part(importance_BR=(MASK & (torch.arange(MASK.numel()).view_as(MASK) == i)).double()),
        )
        for i in range(MASK.numel())
    ]
    expected = (tensor(singles).view_as(MASK) * weights).sum()
    assert objective(PPO(), part(importance_BR=weights)) == pytest.approx(float(expected), abs=1e-6)


@pytest.mark.parametrize("estimator", ["k2", "k3"])
def test_kl_in_the_loss_adds_beta_times_the_mean_token_kl(estimator):
    difference = (LOGPROBS - part().ref_logprobs_BR)[MASK]
    mean = {"k2": (difference**2 / 2).mean(), "k3": ((-difference).exp() - 1 + difference).mean()}[
        estimator
    ]
    found = objective(PPO(kl_in="loss", kl_estimator=estimator))
    assert found - objective(PPO()) == pytest.approx(0.5 * float(mean))


def test_entropy_bonus_is_taken_off():
    expected = objective(PPO()) - 0.3 * float(token_entropy(LOGITS)[MASK].mean())
    assert objective(PPO(entropy_coef=0.3)) == pytest.approx(expected)


def test_temperature_reaches_the_update():
    _, _, found = policy_objective(LOGITS, part(), PPO(sampling=Sampling(temperature=0.5)), TOKENS)
    torch.testing.assert_close(found, token_logprobs(tempered(LOGITS, 0.5), BATCH.response_ids_BR))


def fixed(logits: Tensor, scores: Tensor) -> Models:
    """Models with one answer, whatever the rows: the whole batch is one microbatch."""

    def policy(batch: Batch) -> Tensor:
        return logits[: len(batch.mask_BL)].float()

    def scalar(batch: Batch) -> Tensor:
        return scores[:, None].expand(len(scores), batch.response_mask_BR.shape[1] + 1).float()

    def reference(batch: Batch) -> Tensor:
        return 0.5 * policy(batch)

    return Models(FixedEngine(policy), FixedEngine(scalar), reference, (scalar,), no_functions)


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
        (["ppo.kl_in='loss'"], "expected k2 or k3"),
        (["ppo.dual_clip=1.0"], "greater than 1"),
        (["ppo.importance_cap=0.5"], "greater than or equal to 1"),
        (["ppo.advantage='a2c'"], "dr_grpo"),
    ],
)
def test_options_that_do_not_fit_are_refused_with_a_reason(settings, message):
    with pytest.raises(ConfigError, match=message):
        load_recipe("quickstart", ["ppo.rollout_batch=64", *settings])

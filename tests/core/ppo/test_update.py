"""The update: what the actor descends, and when it stops.

Each option changes what it says and nothing else.
"""

import copy
import math

import pytest
import torch
from plain import PlainEngine as Plain
from plain import no_functions
from ppo_batch import experience
from torch import Tensor, tensor

from rlhf_core.batching.batch import Sequence, collate
from rlhf_core.config import PPO, Sampling
from rlhf_core.objectives.losses import tempered, token_entropy, token_logprobs
from rlhf_core.ppo.experience import ExperienceRows
from rlhf_core.ppo.scoring import Models
from rlhf_core.ppo.update import policy_objective, update

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


# The actor's early stop

CONFIG = PPO(rollout_batch=8, minibatches=2, epochs=3, policy_lr=3e-3, critic_lr=1e-3)


def learned(models, config: PPO) -> tuple[dict[str, float], Plain, Plain]:
    actor, critic = Plain(copy.deepcopy(models[0])), Plain(copy.deepcopy(models[1]))
    learning = Models(actor, critic if config.has_critic else None, models[2], (), no_functions)
    metrics = update(learning, experience(models, config), config, step=1, seed=1)
    return metrics, actor, critic


def weights(engine: Plain) -> Tensor:
    return torch.cat([p.detach().flatten() for p in engine.module.parameters()])


def with_limit(limit: float | None, **changes) -> PPO:
    return PPO(**CONFIG.model_dump() | {"max_kl_update": limit} | changes)


def test_without_a_limit_every_minibatch_is_a_step_of_the_actor(models):
    metrics, actor, critic = learned(models, CONFIG)
    assert actor.steps == critic.steps == 6 and "ppo/policy_updates" not in metrics
    metrics, same, _ = learned(models, with_limit(1e9))
    assert metrics["ppo/policy_updates"] == 6 and weights(same).equal(weights(actor))


def test_beyond_the_limit_the_actor_stops_for_the_step_and_the_critic_goes_on(models):
    """The first minibatch has KL 0; the second, after one step, is the last.

    It shows how far that step went.
    """
    metrics, actor, critic = learned(models, with_limit(1e-6))
    assert (actor.steps, critic.steps, metrics["ppo/policy_updates"]) == (2, 6, 2)
    _, after_two, _ = learned(models, with_limit(None, epochs=1))
    assert weights(actor).equal(weights(after_two))
    _, _, unlimited = learned(models, CONFIG)
    assert weights(critic).equal(weights(unlimited))
    assert metrics["ppo/approx_kl_update"] > 1e-6 and metrics["ppo/policy_grad_norm"] > 0


def test_the_limit_itself_does_not_stop(models):
    metrics, _, _ = learned(models, with_limit(None, epochs=1))
    second = 2 * metrics["ppo/approx_kl_update"]  # the mean over a minibatch of KL 0 and this one
    assert learned(models, with_limit(second * 1.0001, epochs=1))[1].steps == 2
    assert learned(models, with_limit(second * 0.9999, epochs=2))[1].steps == 2
    assert learned(models, with_limit(second * 1.0001, epochs=2))[1].steps > 2


def test_without_a_critic_the_stopped_step_ends(models):
    metrics, actor, critic = learned(models, with_limit(1e-6, advantage="grpo", group_size=2))
    assert (actor.steps, critic.steps) == (2, 0) and "ppo/value_loss" not in metrics


def test_warm_up_of_the_critic_moves_no_actor(models):
    metrics, actor, critic = learned(models, with_limit(1e-6, critic_warmup_steps=1))
    assert (actor.steps, critic.steps) == (0, 6)
    assert (
        metrics["ppo/policy_updates"]
        == metrics["ppo/policy_grad_norm"]
        == metrics["ppo/policy_lr"]
        == 0
    )

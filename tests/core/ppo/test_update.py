"""The update: when the actor stops, and which steps are taken."""

import copy

import torch
from plain import PlainEngine as Plain
from plain import no_functions
from ppo_batch import experience
from torch import Tensor

from rlhf_core.config import PPO
from rlhf_core.ppo.scoring import Models
from rlhf_core.ppo.update import update

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

"""The update: when the actor stops, and which steps are taken."""

import copy
from dataclasses import replace

import pytest
import torch
from plain import PlainEngine as Plain
from plain import no_functions
from ppo_batch import experience, rollout
from torch import Tensor

from rlhf_core.batching.batch import select
from rlhf_core.config import PPO
from rlhf_core.ppo.experience import Experience
from rlhf_core.ppo.metrics import step_metrics
from rlhf_core.ppo.rollout import Rollout
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


def test_overlong_filtering_learns_from_the_rows_that_ended_alone(models):
    """The same weights as a step on these rows only, whatever the others hold."""
    config = PPO(
        overlong="mask",
        whiten_advantages=False,
        policy_lr=1e-2,
        critic_lr=1e-2,
        epochs=1,
        minibatches=2,
        rollout_batch=8,
    )
    made = experience(models, config)
    cut_B = torch.arange(8) % 3 == 1
    learned_B, kept = ~cut_B, (~cut_B).nonzero().flatten().tolist()
    estimates = made.estimates

    def stepped(given: Experience) -> tuple[dict[str, float], dict[str, Tensor]]:
        actor = Plain(copy.deepcopy(models[0]))
        critic = Plain(copy.deepcopy(models[1]))
        learning = Models(actor, critic, actor.infer, (), no_functions)
        metrics = update(learning, given, config, step=1, seed=3)
        assert actor.steps == critic.steps == config.epochs * config.minibatches
        return metrics, {"actor": weights(actor), "critic": weights(critic)}

    junk = replace(
        estimates,
        advantages_BR=estimates.advantages_BR.masked_fill(cut_B[:, None], 1e3),
        returns_BR=estimates.returns_BR.masked_fill(cut_B[:, None], 1e3),
    )
    metrics, found = stepped(replace(made, learned_B=learned_B, estimates=junk))
    batch, R = select(made.batch, kept), select(made.batch, kept).response_mask_BR.shape[1]

    def part(record):
        fields = {name: value for name, value in vars(record).items() if name.endswith("_BR")}
        fields = {name: x[kept][:, :R] for name, x in fields.items() if x is not None}
        return replace(record, **fields)

    alone = replace(
        made,
        batch=batch,
        learned_B=learned_B[kept],
        outputs=part(made.outputs),
        estimates=part(estimates),
    )
    expected_metrics, expected = stepped(alone)
    _, of_all = stepped(made)
    for name, values in expected.items():
        torch.testing.assert_close(found[name], values, atol=1e-5, rtol=1e-4)
        assert (of_all[name] - values).abs().mean() > 1e-3
    assert metrics["ppo/explained_variance"] == pytest.approx(
        expected_metrics["ppo/explained_variance"], abs=1e-5
    )


def test_a_step_of_cut_responses_alone_learns_nothing(models):
    config = PPO(overlong="mask", rollout_batch=8)
    made = replace(experience(models, config), learned_B=torch.zeros(8, dtype=torch.bool))
    actor, critic = Plain(copy.deepcopy(models[0])), Plain(copy.deepcopy(models[1]))
    learning = Models(actor, critic, actor.infer, (), no_functions)
    metrics = update(learning, made, config, step=1, seed=3)
    assert actor.steps == critic.steps == 0 and metrics["ppo/policy_lr"] == 0.0
    assert step_metrics(made, config)["ppo/overlong_masked"] == 8


SAMPLED = PPO(**CONFIG.model_dump() | {"old_logprobs": "sampler"})


def as_sampled(made: Experience, shift: float = 0.0) -> Rollout:
    """Return the rollout with the actor's own log-probabilities + shift as the sampler's."""
    logprobs = [
        (row_R[: len(sequence.response)] + shift).tolist()
        for row_R, sequence in zip(made.outputs.old_logprobs_BR, rollout().sequences, strict=True)
    ]
    return replace(rollout(), sampler_logprobs=logprobs)


@pytest.mark.parametrize("changes", [{}, {"advantage": "grpo", "group_size": 2}])
def test_an_exact_samplers_log_probabilities_are_as_good_as_recomputed_ones(models, changes):
    """The same weights and update metrics, bit for bit; only the entropy is an estimate."""
    recompute, sampled = (with_limit(None, **changes), PPO(**SAMPLED.model_dump() | changes))
    given = as_sampled(experience(models, recompute))
    found = {}
    for config in (recompute, sampled):
        made = experience(models, config, given)
        engines = [Plain(copy.deepcopy(models[place])) for place in (0, 1)]
        learning = Models(
            engines[0], engines[1] if config.has_critic else None, models[2], (), no_functions
        )
        metrics = update(learning, made, config, step=1, seed=1)
        before = step_metrics(made, config)
        found[config.old_logprobs] = (made, before | metrics, [weights(one) for one in engines])
    (made, exact, moved), (quick, estimated, same) = found.values()
    assert all(one.equal(other) for one, other in zip(moved, same, strict=True))
    assert exact.keys() == estimated.keys()
    differ = {name for name in exact if "second" not in name and exact[name] != estimated[name]}
    assert differ <= {"ppo/entropy", "ppo/sampler_effective_share"}
    assert exact["ppo/sampler_logprob_diff_max"] == 0.0
    assert quick.outputs.entropy_BR is None and quick.outputs.old_logprobs_BR.equal(
        quick.sampler_logprobs_BR
    )
    logprobs = quick.sampler_logprobs_BR[made.batch.response_mask_BR]
    assert estimated["ppo/entropy"] == pytest.approx(-float(logprobs.mean()), rel=1e-6)


def test_the_first_minibatch_measures_the_gap_of_a_sampler_whose_probabilities_are_the_old_ones(
    models,
):
    """Its pass in the update is of the weights before any step; later ones have moved."""
    given = as_sampled(experience(models, CONFIG), shift=0.01)
    made = experience(models, SAMPLED, given)
    assert "ppo/sampler_kl" not in step_metrics(made, SAMPLED)
    actor, critic = Plain(copy.deepcopy(models[0])), Plain(copy.deepcopy(models[1]))
    learning = Models(actor, critic, models[2], (), no_functions)
    metrics = update(learning, made, SAMPLED, step=1, seed=1)
    assert metrics["ppo/sampler_logprob_diff"] == pytest.approx(0.01, abs=1e-5)
    assert metrics["ppo/sampler_logprob_diff_max"] == pytest.approx(0.01, abs=1e-5)
    assert metrics["ppo/sampler_kl"] == pytest.approx(0.01**2 / 2, rel=0.02)
    assert metrics["ppo/ratio_min"] < 0.991  # the ratio is trainer / sampler probability


def test_while_the_critic_warms_up_no_pass_measures_the_samplers_gap(models):
    config = PPO(**SAMPLED.model_dump() | {"critic_warmup_steps": 1})
    metrics, actor, critic = learned(models, config)
    assert (actor.steps, critic.steps) == (0, 6)
    assert not any("sampler" in name for name in metrics)

"""Errors that PPO code is known for, each with a test, on a real two-layer model."""

import copy
import dataclasses
import random

import pytest
import torch
from plain import FixedEngine, PlainEngine, no_functions
from torch import Tensor, tensor

from rlhf_core.batching.batch import Sequence, collate, select
from rlhf_core.batching.microbatches import microbatches
from rlhf_core.config import PPO, Sampling
from rlhf_core.modeling.models import PolicyModel, final_scores, inference, load_policy, load_scalar
from rlhf_core.objectives.advantages import token_rewards
from rlhf_core.objectives.losses import token_logprobs, token_mean
from rlhf_core.ppo.experience import Experience, make_experience
from rlhf_core.ppo.metrics import experience_metrics, step_metrics
from rlhf_core.ppo.objective import policy_objective, policy_query
from rlhf_core.ppo.rollout import Rollout
from rlhf_core.ppo.scoring import Models
from rlhf_core.ppo.update import update

T, F = True, False
NAN = float("nan")
PAD, EOS = 0, 1
ONE_SEQUENCE_AT_A_TIME = 1  # token budget: every group over it is a microbatch of its own


@pytest.fixture(scope="module")
def policy(tiny_model) -> PolicyModel:
    """A policy that prefers some tokens clearly, so that temperature matters."""
    model = load_policy(tiny_model)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        model.model.lm_head.weight.copy_(
            0.2 * torch.randn(model.model.lm_head.weight.shape, generator=generator)
        )
    return model


@pytest.fixture(scope="module")
def models(policy, tiny_model) -> Models:
    actor = FixedEngine(inference(policy, dtype="float32"))
    reward = inference(load_scalar(tiny_model, new_head=True, seed=2), dtype="float32")
    critic = inference(load_scalar(tiny_model, new_head=True, seed=3), dtype="float32")
    reference = inference(load_policy(tiny_model), dtype="float32")
    return Models(actor, FixedEngine(critic), reference, (reward,), no_functions)


def sequences() -> list[Sequence]:
    """Responses of 1 to 9 tokens, each ended by EOS."""
    rng = random.Random(5)
    lengths = ((3, 1), (2, 9), (5, 4), (4, 2), (1, 6), (6, 3))
    return [
        Sequence(rng.choices(range(6, 60), k=p), [*rng.choices(range(6, 60), k=r - 1), EOS])
        for p, r in lengths
    ]


def rollout(policy: PolicyModel, temperature: float = 1.0) -> Rollout:
    """Return what a sampler reports: log softmax(logits / temperature) of each token.

    It reads one sequence at a time.
    """
    logprobs = []
    for sequence in sequences():
        batch = collate([sequence], PAD)
        with torch.no_grad():
            logprobs_RV = (policy(batch)[0] / temperature).log_softmax(-1)
        logprobs.append([float(logprobs_RV[t, token]) for t, token in enumerate(sequence.response)])
    return Rollout(sequences(), logprobs, [True] * len(logprobs), 0.0)


def experience(policy: PolicyModel, models: Models, config: PPO) -> Experience:
    return make_experience(
        rollout(policy, config.sampling.temperature), models, config, beta=0.05, pad_id=PAD
    )


def test_end_of_text_counts_as_a_token_when_it_is_also_the_padding(models):
    """Bug: mask = ids != pad_id.

    With pad = EOS this drops the token that learns when to stop, and its reward.
    """
    prompts = [s.prompt for s in sequences()]
    batch = collate(sequences(), pad_id=EOS)
    lengths = [len(s.response) for s in sequences()]
    assert batch.response_mask_BR.sum(-1).tolist() == lengths
    assert all(batch.response_ids_BR[row, length - 1] == EOS for row, length in enumerate(lengths))
    padded_otherwise = collate(sequences(), pad_id=PAD)
    assert batch.mask_BL.equal(padded_otherwise.mask_BL)
    scores = [
        final_scores(models.rewards[0](b), b.response_mask_BR) for b in (batch, padded_otherwise)
    ]
    torch.testing.assert_close(*scores)
    end_in_prompt = collate([Sequence([*prompt, EOS], [7, EOS]) for prompt in prompts], pad_id=EOS)
    assert end_in_prompt.sizes == [(len(prompt) + 1, 2) for prompt in prompts]


def test_what_stands_at_padding_reaches_no_metric(policy, models):
    """Bug: a log-probability of 1.0 or a value of -1 marks padding and enters an average.

    The averages are those of KL, entropy and variance.
    """
    config = PPO(kl_exact=True, importance_cap=1.5)
    clean = experience(policy, models, config)
    padding = ~clean.batch.response_mask_BR

    def mark(record: object) -> object:
        matrices = [f.name for f in dataclasses.fields(record) if f.name.endswith("_BR")]
        return dataclasses.replace(
            record, **{name: getattr(record, name).masked_fill(padding, 1e6) for name in matrices}
        )

    parts = ("outputs", "reward_model", "rewards", "estimates")
    marked = mark(
        dataclasses.replace(clean, **{part: mark(getattr(clean, part)) for part in parts})
    )
    assert padding.any() and step_metrics(marked, config) == step_metrics(clean, config)


def gradient(policy: PolicyModel, made: Experience, config: PPO, token_budget: int) -> Tensor:
    policy.requires_grad_(True).zero_grad()
    tokens = int(made.batch.response_mask_BR.sum())
    for rows in microbatches(made.batch.sizes, token_budget):
        part = made.rows(rows)
        scores = policy(part.batch, query=policy_query(config))
        policy_objective(scores, part, config, tokens)[0].backward()
    return torch.cat([p.grad.flatten() for p in policy.parameters() if p.grad is not None])


def test_loss_is_not_averaged_per_microbatch(policy, models):
    """Bug: the mean of each microbatch's mean.

    In it a token of a short response outweighs one of a long response.
    """
    config = PPO(kl_in="loss", kl_estimator="k3", entropy_coef=0.1)
    made = experience(policy, models, config)
    whole = gradient(policy, made, config, token_budget=10_000)
    assert whole.abs().max() > 1e-3
    torch.testing.assert_close(
        gradient(policy, made, config, ONE_SEQUENCE_AT_A_TIME), whole, atol=1e-6, rtol=1e-4
    )
    loss, mask = tensor([[4.0, NAN, NAN], [0.0, 0.0, 0.0]]), tensor([[T, F, F], [T, T, T]])
    parts = [token_mean(loss[i : i + 1], mask[i : i + 1], 4) for i in range(2)]
    assert float(sum(parts)) == 1.0  # and not (4 / 1 + 0 / 3) / 2


def test_score_is_read_after_the_last_token_and_paid_at_it(models):
    """Bug: one position too early (before EOS was read) or too late (at padding)."""
    mask = tensor([[T, T, T], [T, F, F]])
    columns = torch.arange(4.0).repeat(2, 1)  # column t: the head after t response tokens
    assert final_scores(columns, mask).tolist() == [3.0, 1.0]
    assert token_rewards(tensor([1.0, 1.0]), torch.zeros(2, 3), mask, 0.1).argmax(-1).tolist() == [
        2,
        0,
    ]
    batch = collate(sequences(), PAD)
    before = final_scores(models.rewards[0](batch), batch.response_mask_BR)
    other_ends = [Sequence(s.prompt, [*s.response[:-1], 60]) for s in sequences()]
    changed = collate(other_ends, PAD)
    assert (
        (final_scores(models.rewards[0](changed), batch.response_mask_BR) - before).abs() > 1e-4
    ).all()
    junk = dataclasses.replace(batch, ids_BL=batch.ids_BL.masked_fill(~batch.mask_BL, 33))
    torch.testing.assert_close(
        final_scores(models.rewards[0](junk), batch.response_mask_BR), before
    )


def test_training_log_probabilities_have_the_samplers_temperature(policy, models):
    """Bug: samples at temperature 0.7, ratios at temperature 1.

    The first ratio is then not 1, and every update is off-policy.
    """
    config = PPO(sampling=Sampling(temperature=0.7))
    made = experience(policy, models, config)
    metrics = experience_metrics(made)
    assert (
        metrics["ppo/sampler_logprob_diff_max"] < 1e-4
        and metrics["ppo/sampler_effective_share"] > 1 - 1e-6
    )
    untempered = make_experience(rollout(policy, 0.7), models, PPO(), beta=0.05, pad_id=PAD)
    assert experience_metrics(untempered)["ppo/sampler_logprob_diff"] > 0.05
    part = made.rows(list(range(len(made.rewards.score_B))))
    with torch.no_grad():
        scores = policy(part.batch, query=policy_query(config))
        _, _, new_BR = policy_objective(scores, part, config, 1)
    torch.testing.assert_close(
        new_BR[part.batch.response_mask_BR],
        made.outputs.old_logprobs_BR[part.batch.response_mask_BR],
    )


def test_before_the_first_update_the_model_itself_gives_ratio_one_and_divergence_zero(
    policy, models
):
    """The same rows in the same microbatch: exactly, not nearly."""
    config = PPO(micro_batch_tokens=10_000)
    made = make_experience(
        rollout(policy),
        dataclasses.replace(models, reference=models.actor.infer),
        config,
        beta=0.05,
        pad_id=PAD,
    )
    assert not made.outputs.kl_BR.any()
    rows = microbatches(made.batch.sizes, 10_000)
    assert len(rows) == 1
    part = made.rows(rows[0])
    with torch.no_grad():
        new_BR = token_logprobs(policy(select(made.batch, rows[0])), part.batch.response_ids_BR)
    mask_BR = part.batch.response_mask_BR
    assert new_BR[mask_BR].equal(part.old_logprobs_BR[mask_BR])


def test_the_learning_rates_logged_are_those_that_moved_actor_and_critic(
    tiny_model, policy, models
):
    """Bug: the rate is read after the scheduler stepped, or before warm-up is applied."""
    ppo = PPO(epochs=1, minibatches=1, policy_lr=1e-3, critic_lr=1e-3, warmup_steps=4)
    actor, critic = (
        PlainEngine(copy.deepcopy(policy)),
        PlainEngine(load_scalar(tiny_model, new_head=True, seed=3)),
    )
    before = [
        [p.detach().clone() for p in engine.module.parameters()] for engine in (actor, critic)
    ]
    learning = dataclasses.replace(models, actor=actor, critic=critic)
    metrics = update(learning, experience(policy, models, ppo), ppo, step=2, seed=1)
    for engine, old, name, rate in (
        (actor, before[0], "policy_lr", 5e-4),
        (critic, before[1], "critic_lr", 1e-3),
    ):
        most = max(
            float((p.detach() - q).abs().max())
            for p, q in zip(engine.module.parameters(), old, strict=True)
        )
        assert metrics[f"ppo/{name}"] == rate and most == pytest.approx(rate, rel=1e-3)

"""What happens between the batches: the actor's early stop, old rollouts, exact KL, resume.

Two-layer models, plain torch.
"""

import copy
import dataclasses
import random

import pytest
import torch
from plain import FixedEngine, PlainSampler, no_functions
from plain import PlainEngine as Plain
from torch import Tensor, nn

from rlhf_core.batching.batch import Sequence, collate
from rlhf_core.config import PPO, Evaluate, Sampling, load_recipe
from rlhf_core.config.stage_configs import PPOStageConfig
from rlhf_core.errors import ConfigError
from rlhf_core.evaluation.replies import Setup
from rlhf_core.evaluation.scoring import response_kl
from rlhf_core.modeling.models import inference, load_policy, load_scalar, load_tokenizer
from rlhf_core.objectives.losses import tempered, token_logprobs
from rlhf_core.ppo import stage
from rlhf_core.ppo.experience import Experience, make_experience
from rlhf_core.ppo.metrics import step_metrics
from rlhf_core.ppo.rewards import load_functions
from rlhf_core.ppo.rollout import Prompt, Rollout, indices_of_step, roll_out
from rlhf_core.ppo.scoring import Models
from rlhf_core.ppo.trainer import Trainer
from rlhf_core.ppo.update import update
from rlhf_core.rundir import RunDir, StageSpec, read_metrics
from rlhf_core.sampling.base import Sample

CONFIG = PPO(rollout_batch=8, minibatches=2, epochs=3, policy_lr=3e-3, critic_lr=1e-3)


@pytest.fixture(scope="module")
def models(tiny_model) -> tuple[nn.Module, nn.Module, nn.Module]:
    """Policy, critic, and a reference that differs from the policy."""
    policy, reference = load_policy(tiny_model), load_policy(tiny_model)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for head in (policy.model.lm_head, reference.model.lm_head):
            head.weight.copy_(0.2 * torch.randn(head.weight.shape, generator=generator))
    return policy, load_scalar(tiny_model, new_head=True, seed=3), reference


def rollout() -> Rollout:
    rng = random.Random(3)
    sizes = [(rng.randint(1, 5), rng.randint(1, 9)) for _ in range(8)]
    sequences = [
        Sequence(rng.choices(range(6, 60), k=p), rng.choices(range(6, 60), k=r)) for p, r in sizes
    ]
    return Rollout(sequences, [[-4.0] * len(s.response) for s in sequences], [True] * 8, 0.0)


def experience(models, config: PPO) -> Experience:
    policy, critic, reference = (
        inference(copy.deepcopy(model), dtype="float32") for model in models
    )
    return make_experience(
        rollout(),
        Models(FixedEngine(policy), FixedEngine(critic), reference, (critic,), no_functions),
        config,
        beta=0.1,
        pad_id=0,
    )


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


# Exact KL


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_exact_kl_is_the_sum_over_the_vocabulary_at_the_samplers_temperature(models, temperature):
    config = PPO(kl_exact=True, sampling=Sampling(temperature=temperature), micro_batch_tokens=30)
    x = experience(models, config)
    mask_BR = x.batch.response_mask_BR
    with torch.no_grad():
        ours, theirs = (
            (model(x.batch) / temperature).log_softmax(-1) for model in (models[0], models[2])
        )
    expected_BR = (ours.exp() * (ours - theirs)).sum(-1).masked_fill(~mask_BR, 0.0)
    torch.testing.assert_close(x.outputs.exact_kl_BR, expected_BR, atol=1e-5, rtol=1e-4)
    found = step_metrics(x, config)
    assert found["ppo/kl_exact_per_response"] == pytest.approx(
        float(expected_BR.sum()) / 8, rel=1e-4
    )
    assert found["ppo/kl_exact_per_token"] == pytest.approx(
        float(expected_BR.sum() / mask_BR.sum()), rel=1e-4
    )


def test_measuring_the_exact_kl_changes_nothing_else(models):
    off, on = (experience(models, config) for config in (PPO(), PPO(kl_exact=True)))
    assert off.outputs.exact_kl_BR is None and "ppo/kl_exact_per_token" not in step_metrics(
        off, PPO()
    )
    for part in ("outputs", "reward_model", "rewards", "estimates"):
        with_kl, without = getattr(on, part), getattr(off, part)
        for field in dataclasses.fields(without):
            if field.name.endswith(("_B", "_BR", "_BF")) and field.name not in (
                "exact_kl_BR",
                "spread_B",
            ):
                assert getattr(with_kl, field.name).equal(getattr(without, field.name)), field.name


def test_evaluation_measures_kl_at_the_temperature_that_it_samples_at(models, tiny_model):
    """At another temperature log pi - log pi_ref of a sample is no estimate of the KL.

    It would not be that of the distributions sampled from.
    """
    sequences = rollout().sequences
    forward = [inference(copy.deepcopy(model), dtype="float32") for model in (models[0], models[2])]

    def found(temperature: float) -> Tensor:
        config = Evaluate(sampling=Sampling(temperature=temperature))
        kl_N, mean = response_kl(
            Setup(load_tokenizer(tiny_model), [], config, 1, "float32"), *forward, sequences
        )
        assert mean == pytest.approx(float(kl_N.mean()), rel=1e-5, abs=1e-5)
        return kl_N

    for temperature in (1.0, 0.5):
        batch = collate(sequences, 0)
        ours, theirs = (
            token_logprobs(tempered(model(batch), temperature), batch.response_ids_BR)
            for model in forward
        )
        expected = (ours - theirs).masked_fill(~batch.response_mask_BR, 0.0).sum(-1)
        torch.testing.assert_close(found(temperature), expected, atol=1e-5, rtol=1e-5)
    assert (found(1.0) - found(0.5)).abs().max() > 0.1


# Importance, and the age of rollouts


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


class Dice:
    """A sampler that draws by seed alone."""

    ranks_each = 1
    calls = 0

    def generate(self, prompts: list[list[int]], *, seeds: list[int], eos_id: int) -> list[Sample]:
        self.calls += 1
        drawn = []
        for prompt, seed in zip(prompts, seeds, strict=True):
            rng = random.Random(seed + sum(prompt))
            tokens = rng.choices(range(6, 60), k=rng.randint(1, 6))
            drawn.append(Sample(tokens, [rng.uniform(-3, 0) for _ in tokens], rng.random() < 0.5))
        return drawn


def test_several_steps_generated_at_once_are_those_generated_one_by_one_but_older():
    prompts = {step: [Prompt([step, i], {"i": i}) for i in range(3)] for step in (4, 5, 6)}
    dice = Dice()
    together = roll_out(dice, prompts, seed=7, eos_id=1)
    assert dice.calls == 1 and [together[step].age for step in (4, 5, 6)] == [0, 1, 2]
    for step, asked in prompts.items():
        alone = roll_out(Dice(), {step: asked}, seed=7, eos_id=1)[step]
        assert dataclasses.replace(together[step], age=0, seconds=0.0) == dataclasses.replace(
            alone, seconds=0.0
        )
        assert [sequence.prompt for sequence in alone.sequences] == [one.ids for one in asked]
        assert alone.records == tuple(one.record for one in asked)


def test_every_prompt_comes_once_an_epoch():
    epoch = [i for step in (1, 2, 3) for i in indices_of_step(9, step, 3, seed=5)]
    assert sorted(epoch) == list(range(9)) and epoch != list(range(9))
    assert indices_of_step(9, 4, 3, seed=5) != indices_of_step(9, 1, 3, seed=5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["max_rollout_age=1"], "max_rollout_age 1 without importance_cap"),
        (
            ["max_rollout_age=2", "importance_cap=2.0"],
            "checkpoint_every 10 is not a multiple of .* = 3.*expected e.g. 12",
        ),
        (
            [
                "max_rollout_age=2",
                "importance_cap=2.0",
                "checkpoint_every=3",
                "steps=16",
                "reward_check.every=3",
            ],
            "reward_check.every 3 and steps 16 are not both multiples of .* = 3",
        ),
        (["importance_level='sequence'"], "without importance_cap changes nothing"),
        (["max_kl_update=0"], "greater than 0"),
        (["max_rollout_age=-1"], "greater than or equal to 0"),
    ],
)
def test_options_of_the_loop_that_do_not_fit_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        load_recipe("quickstart", [f"ppo.{setting}" for setting in settings])


def test_options_of_the_loop_that_fit_are_taken():
    settings = [
        "ppo.max_rollout_age=1",
        "ppo.importance_cap=2.0",
        "ppo.importance_level='sequence'",
        "ppo.max_kl_update=0.02",
    ]
    assert load_recipe("quickstart", settings).ppo.max_rollout_age == 1


# The loop, resumed

RULES = """
def even(prompts, replies, tokens):
    return [[float(token[-1] in "02468") for token in own] for own in tokens]

def short(prompts, replies):
    return [-len(reply.split()) / 4 for reply in replies]
"""
FUNCTIONS = [{"function": "loop_rules:even", "per_token": True, "weight": 0.5}, "loop_rules:short"]
ADAPTIVE = PPO(
    steps=6,
    rollout_batch=8,
    minibatches=2,
    epochs=2,
    policy_lr=1e-2,
    critic_lr=1e-3,
    checkpoint_every=2,
    beta=0.2,
    kl_controller="adaptive",
    kl_target=0.05,
    kl_horizon=20,
    kl_exact=True,
    max_kl_update=0.05,
    max_rollout_age=1,
    importance_cap=2.0,
    importance_level="sequence",
    sampling=Sampling(max_new_tokens=8),
    reward={
        "model_weight": 0,
        "functions": FUNCTIONS,
        "centre": True,
        "scale": True,
        "clip": 2.0,
        "length_penalty": 0.1,
    },
)
SHORT = {
    "steps": 3,
    "rollout_batch": 8,
    "minibatches": 2,
    "epochs": 2,
    "policy_lr": 1e-2,
    "critic_lr": 1e-3,
    "checkpoint_every": 1,
    "beta": 0.2,
    "sampling": Sampling(max_new_tokens=6, temperature=0.7),
}
PROCESS = PPO(
    **SHORT,
    reward={"model_at": "difference"},
    kl_in="loss",
    kl_estimator="k3",
    clip_high=0.28,
    dual_clip=3.0,
    gamma=0.9,
    entropy_coef=0.01,
    whiten_advantages=False,
)
UNSURE = PPO(**SHORT, uncertainty_penalty=0.5, advantage="reinforce++-baseline", group_size=2)


@pytest.fixture
def looped(models, tiny_model, tmp_path, monkeypatch):
    """A function that runs the stage's own loop in this process, to its end or to a kill.

    It returns the actor's weights.
    """
    (tmp_path / "loop_rules.py").write_text(RULES)
    monkeypatch.syspath_prepend(tmp_path)
    tokenizer = load_tokenizer(tiny_model)
    texts = [f"w{i} w{i + 1}" for i in range(20)]
    records = [{"prompt": [{"role": "user", "content": text}], "meta": {}} for text in texts]

    def built(spec: StageSpec) -> Trainer:
        config = spec.config.ppo
        policy, critic = (copy.deepcopy(model) for model in models[:2])
        members = 2 if config.uncertainty_penalty else int(config.reward.model_weight > 0)
        scalars = [load_scalar(tiny_model, new_head=True, seed=seed) for seed in (5, 6)]
        rewards = [inference(model, dtype="float32") for model in scalars[:members]]
        return Trainer(
            models=Models(
                actor=Plain(policy),
                critic=Plain(critic) if config.has_critic else None,
                reference=inference(copy.deepcopy(models[0]), dtype="float32"),
                rewards=tuple(rewards),
                functions=load_functions(config.reward.functions, records, tokenizer),
            ),
            sampler=PlainSampler(copy.deepcopy(models[0]), config.sampling),
            tokenizer=tokenizer,
            prompts=[
                Prompt(tokenizer(text)["input_ids"], record)
                for text, record in zip(texts, records, strict=True)
            ],
            config=config,
            seed=1,
        )

    class Killed(RunDir):
        limit: int | None = None

        def log(self, step: int, steps: int, metrics: dict[str, float]) -> None:
            super().log(step, steps, metrics)
            if step == self.limit:
                raise KeyboardInterrupt

    def run(
        name: str, config: PPO = ADAPTIVE, killed_after: int | None = None
    ) -> dict[str, Tensor]:
        directory = Killed(tmp_path / name)
        directory.limit = killed_after
        monkeypatch.setattr(stage, "build", built)
        stage.run(
            StageSpec(
                stage="ppo",
                seed=1,
                config=PPOStageConfig(ppo=config, dtype="float32"),
                inputs={},
                code="",
            ),
            directory,
        )
        return load_policy(tmp_path / name / "model").state_dict()

    return run


def test_a_resumed_loop_is_the_uninterrupted_one_bit_for_bit(looped, tmp_path):
    """Whatever adapts or is carried on: beta, running moments, rollouts that wait.

    Killed at checkpoints and between them.
    """
    whole = looped("whole")
    for step in (3, 4):
        with pytest.raises(KeyboardInterrupt):
            looped(f"killed-{step}", killed_after=step)
        resumed = looped(f"killed-{step}")
        assert all(resumed[name].equal(tensor) for name, tensor in whole.items())
    lines = [
        read_metrics(tmp_path / name / "metrics.jsonl")
        for name in ("whole", "killed-3", "killed-4")
    ]
    timeless = [
        [{k: v for k, v in line["metrics"].items() if "second" not in k} for line in of_run]
        for of_run in lines
    ]
    assert timeless[0] == timeless[1] == timeless[2] and len(timeless[0]) == 6
    first, *_, last = timeless[0]
    assert (
        first["ppo/beta"] != last["ppo/beta"]
        and first["ppo/score_running_mean"] != last["ppo/score_running_mean"]
    )


@pytest.mark.parametrize(
    "config", [PROCESS, UNSURE], ids=("process rewards, KL in the loss", "a wary ensemble")
)
def test_other_options_are_paid_in_the_loop_as_they_say_and_resume_bit_for_bit(
    looped, tmp_path, config
):
    whole = looped("whole", config)
    with pytest.raises(KeyboardInterrupt):
        looped("killed", config, killed_after=2)
    resumed = looped("killed", config)
    assert all(resumed[name].equal(tensor) for name, tensor in whole.items())
    for line in read_metrics(tmp_path / "whole" / "metrics.jsonl"):
        step = {name.removeprefix("ppo/"): value for name, value in line["metrics"].items()}
        paid = step["score_mean"] - config.missing_eos_penalty * (1 - step["eos_share"])
        if config.kl_in == "loss":
            assert (
                step["reward_mean"] == pytest.approx(paid, abs=1e-5) and "score_spread" not in step
            )
        else:  # the mean of squares is no less than the square of the mean
            most = (
                paid
                - config.beta * step["kl_per_response"]
                - config.uncertainty_penalty * step["score_spread"] ** 2
            )
            assert step["score_spread"] > 0 and step["reward_mean"] <= most + 1e-5
        assert step["sampler_logprob_diff_max"] < 1e-4  # at temperature 0.7


def test_responses_of_older_weights_show_in_age_and_mismatch(looped, tmp_path):
    looped("whole")
    steps = [line["metrics"] for line in read_metrics(tmp_path / "whole" / "metrics.jsonl")]
    assert [step["ppo/rollout_age"] for step in steps] == [0, 1, 0, 1, 0, 1]
    fresh, old = ([step["ppo/sampler_kl"] for step in steps[start::2]] for start in (0, 1))
    assert max(fresh) < 1e-6 < 1e-4 < min(old)
    assert max(step["ppo/importance_mean"] for step in steps) != 1 and steps[0][
        "ppo/importance_mean"
    ] == pytest.approx(1, abs=1e-4)
    assert [step["ppo/seconds_sync"] > 0 for step in steps] == [False, True] * 3

"""The loop: resume, options that change from step to step, old rollouts.

Two-layer models, plain torch.
"""

import copy
import json
import threading
from pathlib import Path

import pytest
from plain import PlainEngine as Plain
from plain import PlainSampler
from safetensors.torch import load_file
from torch import Tensor

from rlhf_core.config import PPO, Sampling, load_recipe
from rlhf_core.config.gates import PPOGate
from rlhf_core.config.stage_configs import PPOStageConfig
from rlhf_core.data.tokenizer import load_tokenizer
from rlhf_core.errors import BadInput, ConfigError, Diverged, LimitReached
from rlhf_core.modeling.models import inference, load_policy, load_scalar
from rlhf_core.ppo import evaluation, stage
from rlhf_core.ppo.prompts import Prompt
from rlhf_core.ppo.rewards import load_functions
from rlhf_core.ppo.rollout import Generated
from rlhf_core.ppo.rollouts import THREAD
from rlhf_core.ppo.scoring import Models
from rlhf_core.ppo.trainer import Trainer
from rlhf_core.rundir import STOP, RunDir, StageSpec, read_metrics


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["max_rollout_age=1"], "max_rollout_age 1 without importance_cap"),
        (
            ["max_rollout_age=1", "sampling.own_devices=1"],
            "max_rollout_age 1 without importance_cap",
        ),
        (
            ["max_rollout_age=2", "importance_cap=2.0", "sampling.own_devices=1"],
            "max_rollout_age 2 with sampling.own_devices 1: one rollout.*set max_rollout_age to 1",
        ),
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
        (
            ["max_rollout_age=1", "importance_cap=2.0", "steps=8", "evaluation.every=3"],
            "evaluation.every 3 and steps 8 are not both multiples of .* = 2",
        ),
        (["importance_level='sequence'"], "without importance_cap changes nothing"),
        (["old_logprobs='sampler'", "importance_cap=2.0"], "already trainer / sampler probability"),
        (["old_logprobs='sampler'", "kl_exact=true"], "needs the actor's logits before the update"),
        (["old_logprobs='update'"], "'recompute' or 'sampler'"),
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


def test_checkpoints_checks_and_evaluations_may_come_after_any_step_where_one_is_ahead():
    settings = [
        "max_rollout_age=1",
        "importance_cap=2.0",
        "sampling.own_devices=1",
        "steps=9",
        "checkpoint_every=3",
        "evaluation.every=3",
        "reward_check.every=3",
    ]
    config = load_recipe("quickstart", [f"ppo.{setting}" for setting in settings]).ppo
    assert config.generates_ahead and config.rollout_block == 1
    assert not PPO(max_rollout_age=1, importance_cap=2.0).generates_ahead
    assert PPO(max_rollout_age=1, importance_cap=2.0).rollout_block == 2


RULES = """
def even(prompts, replies, tokens):
    return [[float(token[-1] in "02468") for token in own] for own in tokens]

def short(prompts, replies):
    return [-len(reply.split()) / 4 for reply in replies]

def sometimes(prompts, replies):  # prompts of odd words are solved by every reply
    odd = [int(prompt.split()[0][1:]) % 2 for prompt in prompts]
    words = [sum(ord(word[-1]) for word in reply.split()) for reply in replies]
    return [1.0 if o else -(n % 7) / 7 for o, n in zip(odd, words)]

def never(prompts, replies):
    return [0.0] * len(replies)

def evens(prompts, replies):
    words = [reply.split() for reply in replies]
    return [sum(word[-1] in "02468" for word in own) / max(1, len(own)) for own in words]

def odds(prompts, replies):
    return [1 - share for share in evens(prompts, replies)]

CALLS = []

def later(prompts, replies):  # every call is better than the one before
    CALLS.append(len(replies))
    return [float(len(CALLS))] * len(replies)
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
UNSURE = PPO(
    **SHORT,
    uncertainty_penalty=0.5,
    advantage="reinforce++-baseline",
    group_size=2,
    old_logprobs="sampler",
)


SELECTIVE = PPO(
    **SHORT | {"steps": 4, "rollout_batch": 12, "policy_lr": 1e-4},
    advantage="grpo",
    group_size=3,
    missing_eos_penalty=0.0,
    dynamic_sampling={"max_rounds": 3},
    reward={"model_weight": 0, "functions": ["loop_rules:sometimes"]},
)


HACKED = PPO(  # the rewards want even words, and odd ones are what is really wanted
    **SHORT | {"steps": 6, "policy_lr": 1e-3},
    reward={"model_weight": 0, "functions": ["loop_rules:evens"]},
    evaluation={
        "every": 1,
        "prompts": 4,
        "scorer": "loop_rules:odds",
        "keep": "best",
        "patience": 3,
    },
)


AHEAD = ADAPTIVE.model_copy(
    update={
        "steps": 5,
        "checkpoint_every": 1,
        "keep_checkpoints": 9,
        "sampling": Sampling(max_new_tokens=8, own_devices=1),
    }
)


class Killed(RunDir):
    limit: int | None = None
    asked_in: int | None = None  # the step in which the stage is asked to stop

    def log(self, step: int, steps: int, metrics: dict[str, float]) -> None:
        super().log(step, steps, metrics)
        if step == self.asked_in:
            (self.path / STOP).touch()
        if step == self.limit:
            raise KeyboardInterrupt


@pytest.fixture
def build(models, tiny_model, tmp_path, monkeypatch):
    """Make a function in place of the stage's `build`: engines of torch alone, in this process."""
    (tmp_path / "loop_rules.py").write_text(RULES)
    monkeypatch.syspath_prepend(tmp_path)
    tokenizer = load_tokenizer(tiny_model)
    texts = [f"w{i} w{i + 1}" for i in range(20)]
    records = [{"prompt": [{"role": "user", "content": text}], "meta": {}} for text in texts]

    def built(spec: StageSpec, _run: RunDir) -> Trainer:
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
            left_out=[
                Prompt(tokenizer(row["prompt"][0]["content"])["input_ids"], row)
                for row in records[:4]
            ],
        )

    return built


def spec_of(config: PPO) -> StageSpec:
    section = PPOStageConfig(ppo=config, dtype="float32")
    return StageSpec(stage="ppo", seed=1, config=section, inputs={}, code="")


@pytest.fixture
def looped(build, tmp_path, monkeypatch):
    """Make a function that runs the stage's own loop in this process, to its end or to a kill.

    It returns the actor's weights.
    """

    def run(
        name: str,
        config: PPO = ADAPTIVE,
        killed_after: int | None = None,
        asked_in: int | None = None,
    ) -> dict[str, Tensor]:
        directory = Killed(tmp_path / name)
        directory.limit, directory.asked_in = killed_after, asked_in
        monkeypatch.setattr(stage, "build", build)
        stage.run(spec_of(config), directory)
        return load_policy(tmp_path / name / "model").state_dict()

    return run


def test_a_resumed_loop_is_the_uninterrupted_one_bit_for_bit(looped, tmp_path):
    """Compare all that adapts or is carried on: beta, running moments, rollouts that wait.

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


def test_a_loop_that_is_asked_to_stop_ends_with_its_rollouts_and_goes_on_bit_for_bit(
    looped, tmp_path
):
    config = ADAPTIVE.model_copy(update={"checkpoint_every": 6})
    assert config.rollout_block == 2  # replies of two steps are generated together
    whole = looped("whole", config)
    with pytest.raises(LimitReached, match="stopped after step 4, with a checkpoint"):
        looped("stopped", config, asked_in=3)
    (tmp_path / "stopped" / STOP).unlink()
    resumed = looped("stopped", config)
    assert all(resumed[name].equal(tensor) for name, tensor in whole.items())
    assert len(read_metrics(tmp_path / "stopped" / "metrics.jsonl")) == 6


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


def timeless(folder: Path) -> list[dict[str, float]]:
    """Return the metrics of each step without durations and speeds."""
    lines = [line["metrics"] for line in read_metrics(folder / "metrics.jsonl")]
    return [{k: v for k, v in line.items() if "second" not in k} for line in lines]


def test_dynamic_sampling_replaces_groups_of_equal_rewards_and_resumes_bit_for_bit(
    looped, tmp_path
):
    """Half of the prompts give equal rewards; after a kill the prompts go on where they were."""
    whole, again = looped("whole", SELECTIVE), looped("again", SELECTIVE)
    assert all(again[name].equal(tensor) for name, tensor in whole.items())
    with pytest.raises(KeyboardInterrupt):
        looped("killed", SELECTIVE, killed_after=3)
    resumed = looped("killed", SELECTIVE)
    assert all(resumed[name].equal(tensor) for name, tensor in whole.items())
    steps = timeless(tmp_path / "whole")
    assert timeless(tmp_path / "killed") == timeless(tmp_path / "again") == steps
    assert len(steps) == 4 and max(step["ppo/sampling_rounds"] for step in steps) > 1
    for step in steps:
        assert step["ppo/groups"] <= 4 and step["ppo/policy_grad_norm"] > 0
        full = step["ppo/groups"] == 4
        assert full or step["ppo/sampling_rounds"] == 3
        assert (step["ppo/groups_dropped"] > 0) == (step["ppo/tokens_dropped"] > 0)
        if step["ppo/groups_dropped"]:  # the dropped groups all score 1, the others at most 0
            assert step["ppo/score_mean_sampled"] > step["ppo/score_mean"]
    means, counts = stage._summary(RunDir(tmp_path / "whole"), SELECTIVE)
    kept, dropped = (
        sum(step[name] for step in steps) * SELECTIVE.group_size
        for name in ("ppo/groups", "ppo/groups_dropped")
    )
    assert (counts["ppo/score_mean"], counts["ppo/score_mean_sampled"]) == (kept, kept + dropped)
    assert means["ppo/score_mean_sampled"] > means["ppo/score_mean"]
    taken = json.loads((tmp_path / "whole/checkpoints/step-000003/extra.json").read_text())
    sampled = sum(step["ppo/groups"] + step["ppo/groups_dropped"] for step in steps[:3])
    assert taken["extra"]["cursor"] == sampled > 3 * 4


def test_rewards_that_never_differ_end_the_stage_with_what_to_do(looped):
    given = {"model_weight": 0, "functions": ["loop_rules:never"]}
    config = SELECTIVE.model_copy(update={"reward": SELECTIVE.reward.model_validate(given)})
    with pytest.raises(BadInput, match=r"none of 12 groups \(3 rounds\).*raise ppo.group_size"):
        looped("equal", config)


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


def test_the_gate_of_the_kl_reads_the_mean_over_the_last_steps_that_its_text_names(
    looped, tmp_path
):
    """Bug: the text said the last step."""
    looped("gated", PPO(**SHORT | {"steps": 7}))
    steps = [line["metrics"] for line in read_metrics(tmp_path / "gated" / "metrics.jsonl")]
    last_five = [step["ppo/kl_per_response"] for step in steps[2:]]
    gate = PPOGate()
    metric, bound, limit = gate.bounds()["kl"]
    found = stage._summary(RunDir(tmp_path / "gated"), PPO())[0][metric]
    assert len(last_five) == 5 and found == pytest.approx(sum(last_five) / 5)
    assert found != pytest.approx(last_five[-1]) and (bound, limit) == ("at most", 50.0)
    text = PPOGate.model_fields["max_kl_per_response"].description
    assert f"mean over the responses of the last {stage.SUMMARY_STEPS} steps" in text


def evaluations(folder: Path) -> list[dict[str, float]]:
    return json.loads((folder / "evaluations.json").read_text())


def best_files(folder: Path) -> list[str]:
    """Return the names of the files of weights that evaluations have left, hidden ones too."""
    return sorted(file.name for file in folder.iterdir() if "best" in file.name)


def test_a_hacked_reward_ends_ppo_and_the_step_before_it_is_kept(looped, tmp_path, capsys):
    """The rewards rise and the independent score falls; nothing after that is given."""
    kept = looped("hacked", HACKED)
    found = evaluations(tmp_path / "hacked")
    independent, score = ([one[name] for one in found] for name in ("independent", "score"))
    assert [one["step"] for one in found] == list(range(len(found))) and 4 <= len(found) < 7
    best = max(range(1, len(found)), key=lambda step: independent[step])
    top = max(range(len(found)), key=lambda step: independent[step])
    for late in (-1, -2, -3):
        assert independent[late] < independent[top] and score[late] > score[top]
    assert f"the policy of step {best} is kept" in capsys.readouterr().out
    alone = HACKED.model_copy(update={"steps": best, "evaluation": None})
    assert all(kept[name].equal(tensor) for name, tensor in looped("alone", alone).items())
    logged = [line["metrics"] for line in read_metrics(tmp_path / "hacked" / "metrics.jsonl")]
    assert [one["ppo/eval_independent"] for one in logged] == independent[1:]
    assert [one["ppo/eval_score"] for one in logged] == score[1:]


@pytest.mark.parametrize("step", [2, 3])
def test_an_evaluated_stage_resumes_with_the_same_choice_bit_for_bit(looped, tmp_path, step):
    config = HACKED.model_copy(update={"checkpoint_every": 2})
    whole = looped("whole", config)
    with pytest.raises(KeyboardInterrupt):
        looped("killed", config, killed_after=step)
    resumed = looped("killed", config)
    assert all(resumed[name].equal(tensor) for name, tensor in whole.items())
    assert evaluations(tmp_path / "killed") == evaluations(tmp_path / "whole")
    assert timeless(tmp_path / "killed") == timeless(tmp_path / "whole")


def test_a_stage_killed_between_weights_and_evaluations_has_the_weights_that_are_named(
    looped, tmp_path, monkeypatch
):
    """Bug: both steps had one file name, so the weights of the later one stood as the earlier's."""
    given = {"every": 1, "prompts": 4, "scorer": "loop_rules:later", "keep": "best"}
    config = PPO(**HACKED.model_dump() | {"evaluation": given, "steps": 4})
    whole = looped("whole", config)
    assert best_files(tmp_path / "whole") == ["best-000004.safetensors"]
    written = evaluation.write_atomically

    def killed(path: Path, text: str) -> None:
        if json.loads(text)[-1]["step"] == 3:
            raise KeyboardInterrupt
        written(path, text)

    monkeypatch.setattr(evaluation, "write_atomically", killed)
    with pytest.raises(KeyboardInterrupt):
        looped("killed", config)
    folder = tmp_path / "killed"
    assert [one["step"] for one in evaluations(folder)] == [0, 1, 2]
    assert best_files(folder) == ["best-000002.safetensors", "best-000003.safetensors"]
    alone = looped("alone", config.model_copy(update={"steps": 2, "evaluation": None}))
    found = load_file(folder / "best-000002.safetensors")
    assert found and all(alone[f"model.{name}"].equal(tensor) for name, tensor in found.items())
    monkeypatch.setattr(evaluation, "write_atomically", written)
    resumed = looped("killed", config)
    assert all(resumed[name].equal(tensor) for name, tensor in whole.items())
    assert best_files(folder) == ["best-000004.safetensors"]


def test_weights_of_another_step_than_the_named_one_are_refused(looped, tmp_path):
    looped("moved", HACKED)
    (file,) = (tmp_path / "moved").glob("best-*")
    file.rename(file.with_name("best-000099.safetensors"))
    message = r"best-00000\d.* is missing.* has \['best-000099.*Remove the folder"
    with pytest.raises(BadInput, match=message):
        looped("moved", HACKED)


def test_evaluations_change_no_step_and_the_last_policy_is_given_unless_asked(looped, tmp_path):
    options = HACKED.evaluation.model_copy(update={"keep": "last", "patience": None, "every": 4})
    plain = looped("plain", HACKED.model_copy(update={"evaluation": None}))
    watched = looped("watched", HACKED.model_copy(update={"evaluation": options}))
    assert all(watched[name].equal(tensor) for name, tensor in plain.items())
    assert [one["step"] for one in evaluations(tmp_path / "watched")] == [0, 4, 6]
    assert not best_files(tmp_path / "watched")


def in_checkpoint(folder: Path, step: int, prefix: str) -> dict[str, Tensor]:
    """Return the tensors of a checkpoint whose names begin so, by the rest of their names."""
    saved = load_file(folder / f"checkpoints/step-{step:06d}/state.safetensors")
    return {key.removeprefix(prefix): v for key, v in saved.items() if key.startswith(prefix)}


def test_rollouts_ahead_repeat_and_resume_bit_for_bit_and_are_one_step_old(looped, build, tmp_path):
    """The sampler generates in a thread beside the update, and gets weights between rollouts."""
    whole, again = looped("whole", AHEAD), looped("again", AHEAD)
    assert all(again[name].equal(tensor) for name, tensor in whole.items())
    with pytest.raises(KeyboardInterrupt):
        looped("killed", AHEAD, killed_after=3)
    resumed = looped("killed", AHEAD)
    assert all(resumed[name].equal(tensor) for name, tensor in whole.items())
    steps = timeless(tmp_path / "whole")
    assert timeless(tmp_path / "killed") == timeless(tmp_path / "again") == steps
    assert [step["ppo/rollout_age"] for step in steps] == [0, 1, 1, 1, 1]
    first, *later = [step["ppo/sampler_kl"] for step in steps]
    assert first < 1e-6 < 1e-4 < min(later)  # the actor has learned a step since
    assert max(step["ppo/importance_mean"] for step in steps[1:]) != 1

    trainer = build(spec_of(AHEAD), RunDir(tmp_path / "apart"))
    for step in (2, 3):  # generate the next step's rollout again, from the weights before this one
        pending = Generated.of(in_checkpoint(tmp_path / "whole", step, "pending/"))
        found = {}
        for weights_of in (step - 1, step):
            weights = in_checkpoint(tmp_path / "whole", weights_of, "actor/weights/model.")
            trainer.sampler.sync(weights.items())
            found[weights_of] = trainer.roll_out(step + 1, step * 8)[step + 1]
        logprobs = [sample.logprobs for sample in pending.samples]
        assert found[step - 1].sampler_logprobs == logprobs != found[step].sampler_logprobs


def test_an_early_stop_and_a_spent_kl_budget_end_generation_ahead(looped, tmp_path):
    """Evaluate after every step: the sampler then has the weights of that step."""
    options = HACKED.sampling.model_copy(update={"own_devices": 1})
    ahead = {"steps": 12, "max_rollout_age": 1, "importance_cap": 2.0, "sampling": options}
    looped("stopped", HACKED.model_copy(update=ahead))
    found, steps = evaluations(tmp_path / "stopped"), timeless(tmp_path / "stopped")
    assert [one["step"] for one in found] == list(range(len(found))) and 4 <= len(found) < 13
    fresh = HACKED.model_copy(update=ahead | {"steps": 2, "evaluation": None})
    looped("two", fresh)
    assert timeless(tmp_path / "two")[1]["ppo/kl_per_response"] == steps[1]["ppo/kl_per_response"]
    with pytest.raises(Diverged, match=r"ppo step 1: KL .* the budget is -1"):
        looped("spent", fresh.model_copy(update={"kl_budget": -1.0}))
    assert not [one for one in threading.enumerate() if one.name.startswith(THREAD)]

"""The PPO stage: rollout -> experience -> update -> new weights into the sampler, step after step."""

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace

from torch import Tensor
from transformers import PreTrainedTokenizerBase

from rlhf_core.config import PPO
from rlhf_core.data.render import render_prompt
from rlhf_core.data.splits import load_split
from rlhf_core.engine.base import Engine, Forward
from rlhf_core.engine.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from rlhf_core.engine.deepspeed import write_config
from rlhf_core.errors import Diverged
from rlhf_core.modeling.lora import plain_tensors
from rlhf_core.modeling.models import load_tokenizer, require_same_tokenizer, save_model
from rlhf_core.ppo import onpolicy
from rlhf_core.ppo.experience import Experience, Models, make_experience
from rlhf_core.ppo.layout import load_models
from rlhf_core.ppo.metrics import step_metrics
from rlhf_core.ppo.rewards import RewardFunctions, load_functions
from rlhf_core.ppo.rollout import Rollout, indices_of_step, roll_out
from rlhf_core.ppo.state import LoopState
from rlhf_core.ppo.update import update
from rlhf_core.ranks import is_rank_zero
from rlhf_core.rundir import Output, RunDir, StageSpec, finite, merged, read_metrics
from rlhf_core.sampling.base import Sampler
from rlhf_core.sampling.factory import open_sampler

SUMMARY_STEPS = 5  # final metrics are means over so many last steps: one rollout is noisy
SUMMARY = (
    "score_mean",
    "reward_mean",
    "kl_per_response",
    "kl_per_token",
    "response_tokens",
    "eos_share",
    "entropy",
)


@dataclass(frozen=True)
class ActorWeights:
    """The plain model's named tensors, made anew in each pass over them, in which every rank goes
    along.
    """

    actor: Engine

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        return plain_tensors(self.actor.module.model, self.actor.weights())


@dataclass(frozen=True)
class Trainer:
    """The models, the sampler that follows the actor, and the prompts."""

    actor: Engine
    critic: Engine | None
    reward: Forward | None
    functions: RewardFunctions
    reference: Forward
    further_rewards: tuple[Forward, ...]  # the other members of an ensemble
    sampler: Sampler
    tokenizer: PreTrainedTokenizerBase
    prompts: list[list[int]]
    records: list[dict]  # what the prompts were rendered from
    config: PPO
    seed: int

    def step(
        self, step: int, rollout: Rollout, state: LoopState
    ) -> tuple[dict[str, float], LoopState]:
        """One PPO batch learned from: its metrics, and what the next one starts from.

        Raises Diverged before anything is updated when the KL budget is spent, ValueError for a
        rollout that is too old.
        """
        started, config = time.monotonic(), self.config
        if rollout.age > config.max_rollout_age:
            raise ValueError(
                f"the rollout is {rollout.age} steps old; expected at most max_rollout_age"
                f" {config.max_rollout_age}"
            )
        self.sampler.sleep()
        experience = self.score(rollout, state)
        metrics = step_metrics(experience, config)
        check(metrics, step, config)
        metrics |= update(self.actor, self.critic, experience, config, step=step, seed=self.seed)
        metrics |= {
            "ppo/seconds_sync": self.sync() if step % (config.max_rollout_age + 1) == 0 else 0.0,
            "ppo/seconds_rollout": rollout.seconds,
            "ppo/rollout_tokens_per_second": rollout.response_tokens / rollout.seconds,
            "tokens_per_second": (
                sum(map(len, rollout.sequences)) / (rollout.seconds + time.monotonic() - started)
            ),
        }
        if config.max_rollout_age:
            metrics["ppo/rollout_age"] = rollout.age
        check(metrics, step, config)
        return metrics, state.after(metrics["ppo/kl_per_response"], experience.running, config)

    def roll_out(self, step: int, *, steps: int = 1) -> dict[int, Rollout]:
        """Responses to the prompts of a step, or of several from there, by step; `group_size`
        neighbours a prompt.
        """
        config = self.config
        count = config.rollout_batch // config.group_size
        picked = {
            one: [
                i
                for i in indices_of_step(len(self.prompts), one, count, seed=self.seed)
                for _ in range(config.group_size)
            ]
            for one in range(step, step + steps)
        }
        prompts = {one: [self.prompts[i] for i in indices] for one, indices in picked.items()}
        found = roll_out(self.sampler, prompts, seed=self.seed, eos_id=self.tokenizer.eos_token_id)
        return {
            one: replace(found[one], records=[self.records[i] for i in indices])
            for one, indices in picked.items()
        }

    def score(self, rollout: Rollout, state: LoopState) -> Experience:
        """What the models and the reward functions make of a rollout."""
        critic = self.critic.infer if self.critic else None
        models = Models(
            self.actor.infer,
            critic,
            self.reward,
            self.reference,
            self.further_rewards,
            self.functions,
        )
        pad_id = self.tokenizer.pad_token_id
        return make_experience(
            rollout, models, self.config, beta=state.beta, pad_id=pad_id, running=state.scores
        )

    @property
    def engines(self) -> dict[str, Engine]:
        """What learns, by the name that its state has in a checkpoint."""
        return {"actor": self.actor} | ({"critic": self.critic} if self.critic else {})

    def sync(self) -> float:
        """The actor's weights into the sampler; returns seconds."""
        return self.sampler.sync(ActorWeights(self.actor))


def run(spec: StageSpec, run: RunDir) -> Output:
    """Improve the SFT model's policy against the reward model. Raises Diverged; the last good
    checkpoint is kept.
    """
    checker = onpolicy.build(
        PPO.model_validate(spec.config["ppo"]).reward_check, spec, run
    )  # a wrong name shows at once
    trainer = build(spec)
    config = trainer.config
    done, state = _resume(trainer, run)
    waiting: dict[int, Rollout] = {}
    if checker and not done:
        checker.start(trainer)
    for step in range(done + 1, config.steps + 1):
        waiting = waiting or trainer.roll_out(
            step, steps=min(config.max_rollout_age, config.steps - step) + 1
        )
        metrics, state = trainer.step(step, waiting.pop(step), state)
        if checker:
            metrics |= checker.after(trainer, step, config.steps)
        run.log(step, config.steps, metrics)
        if step % config.checkpoint_every == 0 and step < config.steps:
            _save(trainer, run, step, state)
    save_model(
        trainer.actor.module,
        trainer.tokenizer,
        run.path / "model",
        weights=trainer.actor.whole_weights(),
    )
    write_config(trainer.actor, run.path / "deepspeed.json")
    if not is_rank_zero():
        return Output()
    metrics, responses = _summary(run), config.rollout_batch * min(SUMMARY_STEPS, config.steps)
    files = {"deepspeed_config": "deepspeed.json"}
    whole = Output(
        outputs={"model": "model"},
        metrics=metrics,
        counts=dict.fromkeys(metrics, responses),
        files=files,
    )
    return merged([whole, checker.output(config.steps, run.path)]) if checker else whole


def check(metrics: dict[str, float], step: int, config: PPO) -> None:
    """Raise Diverged on a non-finite value, or when KL per response is over the budget."""
    if not finite(metrics):
        bad = {name: value for name, value in metrics.items() if not finite({name: value})}
        raise Diverged(
            f"ppo step {step}: {bad} is not finite. Lower ppo.policy_lr or ppo.critic_lr."
        )
    kl = metrics["ppo/kl_per_response"]
    if kl > config.kl_budget:
        raise Diverged(
            f"ppo step {step}: KL from the SFT model is {kl:.3g} nats per response, the budget is"
            f" {config.kl_budget:g}. Raise ppo.beta, lower ppo.policy_lr, or raise ppo.kl_budget."
        )


def build(spec: StageSpec) -> Trainer:
    """Everything loaded; actor and reference both start from the input `policy`, unless one named
    `reference` is given.
    """
    config, dtype = PPO.model_validate(spec.config["ppo"]), spec.config["dtype"]
    policy_path = spec.inputs["policy"].path
    tokenizer = load_tokenizer(policy_path)
    if config.reward.model_weight:
        require_same_tokenizer(policy_path, spec.inputs["reward"].path, "reward model")
    records = load_split(spec.inputs["prompts_train"].path)
    functions = load_functions(config.reward.functions, records, tokenizer)
    prompts = [render_prompt(tokenizer, record["prompt"]) for record in records]
    models = load_models(spec, config)
    return Trainer(
        **vars(models),
        functions=functions,
        sampler=open_sampler(
            policy_path, config.sampling, max_prompt_tokens=max(map(len, prompts)), dtype=dtype
        ),
        tokenizer=tokenizer,
        prompts=prompts,
        records=records,
        config=config,
        seed=spec.seed,
    )


def _resume(trainer: Trainer, run: RunDir) -> tuple[int, LoopState]:
    """Steps already done and what the next starts from, by the newest checkpoint, which is loaded;
    0 and the first without.
    """
    checkpoint = load_checkpoint(run.checkpoints)
    if checkpoint is None:
        return 0, LoopState.first(trainer.config)
    for owner, engine in trainer.engines.items():
        prefix = f"{owner}/"
        engine.load_state(
            {
                k.removeprefix(prefix): v
                for k, v in checkpoint.tensors.items()
                if k.startswith(prefix)
            }
        )
    trainer.sync()
    return checkpoint.step, LoopState.from_json(checkpoint.extra)


def _save(trainer: Trainer, run: RunDir, step: int, state: LoopState) -> None:
    tensors = {
        f"{owner}/{name}": value
        for owner, engine in trainer.engines.items()
        for name, value in engine.state().items()
    }
    save_checkpoint(
        run.checkpoints,
        Checkpoint(step, tensors, state.as_json()),
        keep=trainer.config.keep_checkpoints,
    )


def _summary(run: RunDir) -> dict[str, float]:
    """Means over the last SUMMARY_STEPS steps, read back from metrics.jsonl (a resumed stage saw
    only some).
    """
    last = [line["metrics"] for line in read_metrics(run.metrics_path)[-SUMMARY_STEPS:]]
    return {
        f"ppo/{name}": sum(line[f"ppo/{name}"] for line in last) / len(last) for name in SUMMARY
    }

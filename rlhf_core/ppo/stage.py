"""The PPO stage: rollout -> experience -> update -> new weights into the sampler, step after step."""

import time
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from rlhf_core.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from rlhf_core.config import PPO
from rlhf_core.data.render import render_prompt
from rlhf_core.data.splits import load_split
from rlhf_core.engine import Engine, write_config
from rlhf_core.errors import Diverged
from rlhf_core.kl import adapt_beta
from rlhf_core.lora import plain_tensors
from rlhf_core.models import load_tokenizer, require_same_tokenizer, save_model
from rlhf_core.ppo import onpolicy
from rlhf_core.ppo.experience import Experience, Forward, Models, experience_metrics, make_experience
from rlhf_core.ppo.layout import load_models
from rlhf_core.ppo.rollout import Rollout, prompts_of_step, roll_out
from rlhf_core.ppo.update import update
from rlhf_core.rundir import Output, RunDir, StageSpec, finite, merged, read_metrics
from rlhf_core.sampler import Sampler

SUMMARY_STEPS = 5  # final metrics are means over so many last steps: one rollout is noisy
SUMMARY = ("score_mean", "reward_mean", "kl_per_response", "kl_per_token", "response_tokens", "eos_share", "entropy")


@dataclass(frozen=True)
class Trainer:
    """The models, the sampler that follows the actor, and the prompts."""

    actor: Engine
    critic: Engine | None
    reward: Forward
    reference: Forward
    further_rewards: tuple[Forward, ...]  # the other members of an ensemble
    sampler: Sampler
    tokenizer: PreTrainedTokenizerBase
    prompts: list[list[int]]
    config: PPO
    seed: int

    def step(self, step: int, beta: float) -> dict[str, float]:
        """One PPO batch. Raises Diverged before anything is updated when the KL budget is spent."""
        started, config = time.monotonic(), self.config
        rollout = self.roll_out(step)
        experience = self.score(rollout, beta)
        metrics = experience_metrics(experience)
        check(metrics, step, config)
        metrics |= update(self.actor, self.critic, experience, config, step=step, seed=self.seed)
        metrics |= {
            "ppo/seconds_sync": self.sync(),
            "ppo/seconds_rollout": rollout.seconds,
            "ppo/rollout_tokens_per_second": rollout.response_tokens / rollout.seconds,
            "tokens_per_second": sum(map(len, rollout.sequences)) / (time.monotonic() - started),
        }
        check(metrics, step, config)
        return metrics

    def roll_out(self, step: int) -> Rollout:
        """Responses to the step's prompts, `group_size` neighbours a prompt."""
        config = self.config
        distinct = prompts_of_step(self.prompts, step, config.rollout_batch // config.group_size, seed=self.seed)
        prompts = [prompt for prompt in distinct for _ in range(config.group_size)]
        return roll_out(self.sampler, prompts, step=step, seed=self.seed, eos_id=self.tokenizer.eos_token_id)

    def score(self, rollout: Rollout, beta: float) -> Experience:
        """What the models make of a rollout."""
        critic = self.critic.infer if self.critic else None
        models = Models(self.actor.infer, critic, self.reward, self.reference, self.further_rewards)
        return make_experience(rollout, models, self.config, beta=beta, pad_id=self.tokenizer.pad_token_id)

    @property
    def engines(self) -> dict[str, Engine]:
        """What learns, by the name that its state has in a checkpoint."""
        return {"actor": self.actor} | ({"critic": self.critic} if self.critic else {})

    def sync(self) -> float:
        """The actor's weights into the sampler; returns seconds."""
        return self.sampler.sync(plain_tensors(self.actor.module.model))


def run(spec: StageSpec, run: RunDir) -> Output:
    """Improve the SFT model's policy against the reward model. Raises Diverged; the last good checkpoint is kept."""
    checker = onpolicy.build(PPO.model_validate(spec.config["ppo"]).reward_check, spec, run)  # a wrong name shows at once
    trainer = build(spec)
    config = trainer.config
    done, beta = _resume(trainer, run)
    if checker and not done:
        checker.start(trainer)
    for step in range(done + 1, config.steps + 1):
        metrics = trainer.step(step, beta)
        if checker:
            metrics |= checker.after(trainer, step, config.steps)
        run.log(step, config.steps, metrics)
        if config.kl_controller == "adaptive":
            kl, responses = metrics["ppo/kl_per_response"], config.rollout_batch
            beta = adapt_beta(beta, kl, target=config.kl_target, horizon=config.kl_horizon, responses=responses)
        if step % config.checkpoint_every == 0 and step < config.steps:
            _save(trainer, run, step, beta)
    save_model(trainer.actor.module, trainer.tokenizer, run.path / "model")
    write_config(trainer.actor, run.path / "deepspeed.json")
    metrics, responses = _summary(run), config.rollout_batch * min(SUMMARY_STEPS, config.steps)
    files = {"deepspeed_config": "deepspeed.json"}
    whole = Output(outputs={"model": "model"}, metrics=metrics, counts=dict.fromkeys(metrics, responses), files=files)
    return merged([whole, checker.output(config.steps, run.path)]) if checker else whole


def check(metrics: dict[str, float], step: int, config: PPO) -> None:
    """Raise Diverged on a non-finite value, or when KL per response is over the budget."""
    if not finite(metrics):
        bad = {name: value for name, value in metrics.items() if not finite({name: value})}
        raise Diverged(f"ppo step {step}: {bad} is not finite. Lower ppo.policy_lr or ppo.critic_lr.")
    kl = metrics["ppo/kl_per_response"]
    if kl > config.kl_budget:
        raise Diverged(
            f"ppo step {step}: KL from the SFT model is {kl:.3g} nats per response, the budget is {config.kl_budget:g}. "
            "Raise ppo.beta, lower ppo.policy_lr, or raise ppo.kl_budget."
        )


def build(spec: StageSpec) -> Trainer:
    """Everything loaded; actor and reference both start from the input `policy`, unless one named `reference` is given."""
    config, dtype = PPO.model_validate(spec.config["ppo"]), spec.config["dtype"]
    policy_path, reward_path = spec.inputs["policy"].path, spec.inputs["reward"].path
    tokenizer = load_tokenizer(policy_path)
    require_same_tokenizer(policy_path, reward_path, "reward model")
    prompts = [render_prompt(tokenizer, row["prompt"]) for row in load_split(spec.inputs["prompts_train"].path)]
    models = load_models(spec, config)
    return Trainer(
        **vars(models),
        sampler=Sampler(policy_path, config.sampling, max_prompt_tokens=max(map(len, prompts)), dtype=dtype),
        tokenizer=tokenizer,
        prompts=prompts,
        config=config,
        seed=spec.seed,
    )


def _resume(trainer: Trainer, run: RunDir) -> tuple[int, float]:
    """Steps already done and beta, from the newest checkpoint, which is loaded; 0 and the configured beta without."""
    checkpoint = load_checkpoint(run.checkpoints)
    if checkpoint is None:
        return 0, trainer.config.beta
    for owner, engine in trainer.engines.items():
        prefix = f"{owner}/"
        engine.load_state({k.removeprefix(prefix): v for k, v in checkpoint.tensors.items() if k.startswith(prefix)})
    trainer.sync()
    return checkpoint.step, checkpoint.extra["beta"]


def _save(trainer: Trainer, run: RunDir, step: int, beta: float) -> None:
    tensors = {f"{owner}/{name}": value for owner, engine in trainer.engines.items() for name, value in engine.state().items()}
    save_checkpoint(run.checkpoints, Checkpoint(step, tensors, {"beta": beta}), keep=trainer.config.keep_checkpoints)


def _summary(run: RunDir) -> dict[str, float]:
    """Means over the last SUMMARY_STEPS steps, read back from metrics.jsonl (a resumed stage saw only some)."""
    last = [line["metrics"] for line in read_metrics(run.metrics_path)[-SUMMARY_STEPS:]]
    return {f"ppo/{name}": sum(line[f"ppo/{name}"] for line in last) / len(last) for name in SUMMARY}

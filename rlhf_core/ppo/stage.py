"""The PPO stage: rollout -> experience -> update -> new weights into the sampler, step by step."""

import time
from dataclasses import replace

from rlhf_core.config import PPO
from rlhf_core.config.decidable import SUMMARY_STEPS
from rlhf_core.config.stage_configs import PPOStageConfig
from rlhf_core.engine.checkpoint_writer import CheckpointWriter
from rlhf_core.engine.deepspeed import write_config
from rlhf_core.modeling.models import finish, save_model
from rlhf_core.ppo import evaluation, onpolicy
from rlhf_core.ppo.evaluation import Evaluator
from rlhf_core.ppo.metrics import speed_metrics, step_metrics
from rlhf_core.ppo.onpolicy import Checker
from rlhf_core.ppo.rollout import Rollout
from rlhf_core.ppo.rollouts import Rollouts
from rlhf_core.ppo.state import LoopState, checkpoint_of, resume
from rlhf_core.ppo.timeline import Timeline
from rlhf_core.ppo.trainer import Trainer, build, check
from rlhf_core.ppo.update import update
from rlhf_core.ranks import is_rank_zero
from rlhf_core.rundir import STOP, Output, RunDir, StageSpec, merged, read_metrics

SAMPLED = "ppo/score_mean_sampled"  # with dynamic sampling alone
SUMMARY = (
    "score_mean",
    "reward_mean",
    "kl_per_response",
    "kl_per_token",
    "response_tokens",
    "eos_share",
    "entropy",
    SAMPLED.removeprefix("ppo/"),
)


def run(spec: StageSpec[PPOStageConfig], run: RunDir) -> Output:
    """Improve the SFT model's policy by the rewards of its own responses.

    Raises Diverged before the update when the KL budget is spent; the last good checkpoint is kept.
    """
    # before the models: a wrong name shows at once
    checker = onpolicy.build(spec.config.ppo.reward_check, spec, run)
    evaluator = evaluation.build(spec.config.ppo.evaluation, run.path)
    timeline = Timeline(run.path)
    trainer = replace(build(spec, run), timeline=timeline)
    config, engines = trainer.config, trainer.models.engines
    resumed = resume(run.checkpoints, engines, config)
    state = resumed.state
    if resumed.step:
        trainer.sync(resumed.step)
    else:
        _before(trainer, state, checker, evaluator)
    last = config.steps
    with (
        Rollouts(trainer, resumed) as rollouts,
        CheckpointWriter(
            run.checkpoints, config, block=config.rollout_block, stop=run.path / STOP
        ) as writer,
    ):
        for step, rollout in rollouts:
            metrics, state = _learn(trainer, rollouts, step, rollout, state)
            if evaluator:
                with timeline.span("evaluate", step):
                    metrics |= evaluator.after(trainer, state, step)
                last = step if evaluator.ends(step) else last
            if checker:
                with timeline.span("check", step):
                    metrics |= checker.after(trainer, step, last)
            run.log(step, config.steps, metrics)
            if step == last:
                break
            if writer.due(step):
                with timeline.span("checkpoint", step):
                    writer.save(checkpoint_of(step, engines, state, rollouts.pending))
    output = _output(trainer, run, evaluator, last)
    if checker and is_rank_zero():
        return merged([output, checker.output(last, run.path)])
    return output


def _learn(
    trainer: Trainer, rollouts: Rollouts, step: int, rollout: Rollout, state: LoopState
) -> tuple[dict[str, float], LoopState]:
    """Learn one step from its rollout; return its metrics, and the state of the next one."""
    config, span, started = trainer.config, trainer.timeline.span, time.monotonic()
    with span("score", step):
        experience = trainer.score(rollout, state)
    metrics = step_metrics(experience, config)
    check(metrics, step, config)
    rollouts.raise_error()
    with span("update", step):
        metrics |= update(trainer.models, experience, config, step=step, seed=trainer.seed)
    learned = time.monotonic() - started
    metrics["ppo/seconds_sync"] = synced = rollouts.renew_weights(step)
    metrics |= speed_metrics(rollout, config, seconds=learned + synced)
    check(metrics, step, config)
    kl, running = metrics["ppo/kl_per_response"], experience.rewards.running
    return metrics, state.after(kl, running, config, rollout)


def _before(
    trainer: Trainer, state: LoopState, checker: Checker | None, evaluator: Evaluator | None
) -> None:
    """Check and evaluate the SFT model, where the recipe asks for it."""
    if checker:
        checker.start(trainer)
    if evaluator:
        evaluator.start(trainer, state)


def _output(trainer: Trainer, run: RunDir, evaluator: Evaluator | None, last: int) -> Output:
    """Write the policy and the engine's configuration; return the stage's result, on rank 0."""
    actor, config = trainer.models.actor, trainer.config
    weights, kept = evaluator.kept(trainer, last) if evaluator else (None, Output())
    folder, saved = run.path / "model", trainer.saved_dtype
    finish(actor, dtype=saved)
    if weights is None:
        weights = actor.whole_weights()
    save_model(actor.module, trainer.tokenizer, folder, weights=weights, dtype=saved)
    write_config(actor, run.path / "deepspeed.json")
    if not is_rank_zero():
        return Output()
    metrics, counts = _summary(run, config)
    own = Output(
        outputs={"model": "model"},
        metrics=metrics,
        counts=counts,
        files={"deepspeed_config": "deepspeed.json"},
    )
    return merged([own, kept])


def _summary(run: RunDir, config: PPO) -> tuple[dict[str, float], dict[str, int]]:
    """Return means over the last SUMMARY_STEPS steps, and the responses that each is of.

    They are read back from metrics.jsonl, because a resumed stage has seen only some of these steps
    itself.
    """
    last = [line["metrics"] for line in read_metrics(run.metrics_path)[-SUMMARY_STEPS:]]
    names = [f"ppo/{name}" for name in SUMMARY if f"ppo/{name}" in last[-1]]
    metrics = {name: sum(line[name] for line in last) / len(last) for name in names}
    # dynamic sampling reports the groups that it kept
    groups = [line.get("ppo/groups", config.rollout_batch // config.group_size) for line in last]
    counts = dict.fromkeys(metrics, int(sum(groups)) * config.group_size)
    if SAMPLED in metrics:
        dropped = sum(line["ppo/groups_dropped"] for line in last)
        counts[SAMPLED] += int(dropped) * config.group_size
    return metrics, counts

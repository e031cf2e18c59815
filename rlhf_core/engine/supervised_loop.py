"""The loop that supervised stages share: epochs over a seeded order, steps, checkpoints, resume."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from rlhf_core.batching.batch import order_part
from rlhf_core.config import DPO, KTO, SFT, Reward
from rlhf_core.engine.base import Engine
from rlhf_core.engine.checkpoint import Checkpoint, load_checkpoint
from rlhf_core.engine.checkpoint_writer import CheckpointWriter
from rlhf_core.engine.schedule import linear_schedule
from rlhf_core.errors import Diverged
from rlhf_core.rundir import STOP, RunDir, finite


@dataclass(frozen=True)
class StepOutcome:
    """The result of one optimizer step's passes: metrics without stage prefix, and tokens seen."""

    metrics: dict[str, float]
    tokens: int


@dataclass(frozen=True)
class SupervisedTask:
    """The task that a stage learns.

    stage: its name, the prefix of its metrics.
    examples: how many there are.
    accumulate: takes the indices of a step's examples and the step's number from 1, runs the
    backward passes, and returns what to log.
    """

    stage: str
    examples: int
    accumulate: Callable[[list[int], int], StepOutcome]


def fit(
    engine: Engine,
    run: RunDir,
    config: SFT | Reward | DPO | KTO,
    task: SupervisedTask,
    *,
    seed: int,
) -> None:
    """Train for `config.epochs` epochs, from the newest checkpoint if there is one.

    `seed` decides the order of examples and an adapter's dropout, for which torch would seed each
    process by chance.
    Raises Diverged on a non-finite loss or gradient norm, and LimitReached when it is asked to
    stop; the last good checkpoint is kept.
    """
    stage, examples = task.stage, task.examples
    per_epoch = -(-examples // config.batch_size)
    steps = per_epoch * config.epochs
    torch.manual_seed(seed)
    layouts = {"": engine.layout()}
    checkpoint = load_checkpoint(run.checkpoints, layouts)  # with the state of torch's generators
    if checkpoint:
        engine.load_state(checkpoint.tensors)
    with CheckpointWriter(run.checkpoints, config, stop=run.path / STOP) as writer:
        for step in range((checkpoint.step if checkpoint else 0) + 1, steps + 1):
            started = time.monotonic()
            epoch, position = divmod(step - 1, per_epoch)
            begin = position * config.batch_size
            end = begin + config.batch_size
            indices = order_part(examples, begin, end, seed=seed, epoch=epoch)
            outcome = task.accumulate(indices, step)
            lr = linear_schedule(step, steps, peak=config.lr, warmup_ratio=config.warmup_ratio)
            norm = engine.step(lr)
            metrics = {f"{stage}/{name}": value for name, value in outcome.metrics.items()}
            metrics |= {f"{stage}/lr": lr, f"{stage}/grad_norm": norm}
            if not finite(metrics):
                raise Diverged(
                    f"{stage} step {step} gave {metrics}; expected finite numbers. Lower"
                    f" {stage}.lr."
                )
            speed = outcome.tokens / (time.monotonic() - started)
            run.log(step, steps, metrics | {"tokens_per_second": speed})
            if writer.due(step) and step < steps:
                writer.save(Checkpoint(step, engine.state(), {}, layouts))

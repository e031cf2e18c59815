"""The supervised loop: logged learning rates, and the order of the data after a resume."""

import pytest
import torch
from plain import PlainEngine
from torch import Tensor, nn

from rlhf_core.config import SFT
from rlhf_core.engine.schedule import linear_schedule
from rlhf_core.engine.supervised_loop import StepOutcome, SupervisedTask, fit
from rlhf_core.rundir import RunDir, read_metrics


class Slope(nn.Module):
    """A loss that is a straight line: AdamW moves its weight by the rate itself at each step."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1, dtype=torch.float64))

    def forward(self) -> Tensor:
        return self.weight.sum()


def fitted(
    folder, config: SFT, *, killed_before: int | None = None
) -> tuple[list[list[int]], list[float]]:
    """Run the supervised loop over 10 examples; return each step's indices and weight change."""
    engine, batches, weights = PlainEngine(Slope()), [], []

    def accumulate(indices: list[int]) -> StepOutcome:
        weights.append(engine.module.weight.item())
        if len(weights) == killed_before:
            raise KeyboardInterrupt
        batches.append(indices)
        engine.backward(engine())
        return StepOutcome({"loss": 0.0}, 1)

    try:
        fit(engine, RunDir(folder), config, SupervisedTask("sft", 10, accumulate), seed=1)
    except KeyboardInterrupt:
        return batches, []
    ends = [*weights[1:], engine.module.weight.item()]
    return batches, [before - after for before, after in zip(weights, ends, strict=True)]


def test_the_learning_rate_logged_is_the_one_that_moved_the_weights(tmp_path):
    """Bug: the rate is read after the scheduler stepped, or before warm-up is applied."""
    config = SFT(lr=1e-2, epochs=2, batch_size=3, warmup_ratio=0.4)
    moves = fitted(tmp_path, config)[1]
    logged = [line["metrics"]["sft/lr"] for line in read_metrics(tmp_path / "metrics.jsonl")]
    assert logged == [linear_schedule(step, 8, peak=1e-2, warmup_ratio=0.4) for step in range(1, 9)]
    assert moves == pytest.approx(logged, rel=1e-6) and len(set(logged)) > 3


def test_a_resumed_stage_repeats_no_batch_and_leaves_none_out(tmp_path):
    """Bug: the data order starts again, so that early rows are learnt twice and late ones never."""
    config = SFT(lr=1e-2, epochs=2, batch_size=3, checkpoint_every=1)
    whole, _ = fitted(tmp_path / "whole", config)
    assert (
        sorted(i for batch in whole[:4] for i in batch) == list(range(10))
        and whole[:4] != whole[4:]
    )
    for step in range(2, 9):
        first, _ = fitted(tmp_path / f"killed-{step}", config, killed_before=step)
        rest, _ = fitted(tmp_path / f"killed-{step}", config)
        assert first + rest == whole

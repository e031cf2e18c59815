"""The supervised loop: logged learning rates, and the order of the data after a resume."""

import contextlib

import pytest
import torch
from plain import PlainEngine
from torch import Tensor, nn

from rlhf_core.batching.batch import device
from rlhf_core.config import SFT
from rlhf_core.engine.schedule import linear_schedule
from rlhf_core.engine.supervised_loop import StepOutcome, SupervisedTask, fit
from rlhf_core.errors import LimitReached
from rlhf_core.rundir import STOP, RunDir, read_metrics


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

    def accumulate(indices: list[int], _step: int) -> StepOutcome:
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


class Dropped(nn.Module):
    """A linear layer behind dropout; its weights depend on every random number that was drawn."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Dropout(0.5), nn.Linear(16, 4))

    def forward(self, inputs: Tensor) -> Tensor:
        return self.layers(inputs).square().sum()


def trained_with_dropout(
    folder, *, killed_before: int | None = None, stopped_in: int | None = None
) -> Tensor:
    """Run the supervised loop over 12 examples, on the GPU where there is one."""
    torch.manual_seed(3)
    engine, steps = PlainEngine(Dropped().to(device())), []
    torch.seed()  # a new process is somewhere else

    def accumulate(indices: list[int], _step: int) -> StepOutcome:
        steps.append(indices)
        if len(steps) == killed_before:
            raise KeyboardInterrupt
        if len(steps) == stopped_in:
            (folder / STOP).touch()
        inputs = torch.eye(16, device=device())[indices]
        engine.backward(engine(inputs))
        return StepOutcome({"loss": 0.0}, 1)

    config = SFT(lr=1e-1, epochs=2, batch_size=3, checkpoint_every=2)
    with contextlib.suppress(KeyboardInterrupt, LimitReached):
        fit(engine, RunDir(folder), config, SupervisedTask("sft", 12, accumulate), seed=1)
    return torch.cat([p.detach().flatten() for p in engine.module.parameters()])


def test_a_resumed_stage_with_dropout_is_the_uninterrupted_one_bit_for_bit(tmp_path):
    whole = trained_with_dropout(tmp_path / "whole")
    assert whole.equal(trained_with_dropout(tmp_path / "again"))
    for step in (3, 4, 7):  # after a checkpoint, and a step later
        folder = tmp_path / f"killed-{step}"
        assert not trained_with_dropout(folder, killed_before=step).equal(whole)
        assert trained_with_dropout(folder).equal(whole)


def test_a_stage_that_was_asked_to_stop_goes_on_bit_for_bit_where_it_ended(tmp_path):
    whole, folder = trained_with_dropout(tmp_path / "whole"), tmp_path / "stopped"
    assert not trained_with_dropout(folder, stopped_in=3).equal(whole)
    assert (folder / "checkpoints" / "step-000003").is_dir()
    (folder / STOP).unlink()
    assert trained_with_dropout(folder).equal(whole)


def test_a_stage_that_is_asked_to_stop_in_its_last_step_ends_as_usual(tmp_path):
    whole = trained_with_dropout(tmp_path / "whole")
    assert trained_with_dropout(tmp_path / "asked", stopped_in=8).equal(whole)


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

"""Checkpoints come in time, are written beside the steps, and survive a kill in the middle."""

import signal
import subprocess
import sys

import pytest
import torch

from rlhf_core.config import PPO, SFT
from rlhf_core.engine.checkpoint import Checkpoint, load_checkpoint
from rlhf_core.engine.checkpoint_writer import CheckpointWriter
from rlhf_core.errors import LimitReached, StageFailed


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self):
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def due_after(folder, config: SFT | PPO, seconds: list[float], *, block: int = 1) -> list[int]:
    """Return the steps after which a checkpoint is due, of steps that take so many seconds."""
    clock, found = Clock(), []
    with CheckpointWriter(folder, config, block=block, clock=clock) as writer:
        for step, length in enumerate(seconds, start=1):
            clock.now += length
            if writer.due(step):
                found.append(step)
                writer.save(Checkpoint(step, {}, {}))
    return found


def test_steps_decide_where_they_are_quick(tmp_path):
    config = SFT(checkpoint_every=3, checkpoint_minutes=10)
    assert due_after(tmp_path, config, [1.0] * 10) == [3, 6, 9]


def test_minutes_decide_where_steps_are_slow(tmp_path):
    """By hand, of steps of 25 s and a limit of 60 s: a third step would end at 75 s."""
    config = SFT(checkpoint_every=50, checkpoint_minutes=1)
    assert due_after(tmp_path, config, [25.0] * 7) == [2, 4, 6]


def test_a_step_longer_than_the_limit_is_saved_each_time(tmp_path):
    config = SFT(checkpoint_every=50, checkpoint_minutes=1)
    assert due_after(tmp_path, config, [90.0] * 3) == [1, 2, 3]


def test_no_checkpoint_parts_rollouts_that_were_generated_together(tmp_path):
    config = PPO(checkpoint_every=10, checkpoint_minutes=1)
    assert due_after(tmp_path, config, [50.0] * 5, block=2) == [2, 4]


def test_the_next_chance_is_a_block_away_of_which_the_first_step_generates(tmp_path):
    """By hand, blocks of 25 and 10 s and a limit of 60 s: a second block would end at 70 s."""
    config = PPO(checkpoint_every=10, checkpoint_minutes=1)
    assert due_after(tmp_path, config, [25.0, 10.0] * 3, block=2) == [2, 4, 6]


def test_a_checkpoint_beside_the_steps_holds_the_weights_of_its_own_step(tmp_path):
    weights = torch.arange(1 << 20, dtype=torch.float32)
    expected, torch_state = weights.clone(), torch.get_rng_state()
    with CheckpointWriter(tmp_path, SFT(async_checkpoints=True)) as writer:
        writer.save(Checkpoint(1, {"w": weights}, {"beta": 0.5}))
        weights.zero_()  # the next step
        torch.rand(3)
        writer.wait()
        found = load_checkpoint(tmp_path)
    assert found.tensors["w"].equal(expected) and found.extra == {"beta": 0.5}
    assert torch.get_rng_state().equal(torch_state)


def test_the_block_waits_for_the_last_checkpoint_even_after_an_exception(tmp_path):
    with (
        pytest.raises(KeyboardInterrupt),
        CheckpointWriter(tmp_path, SFT(async_checkpoints=True)) as writer,
    ):
        writer.save(Checkpoint(1, {"w": torch.ones(1 << 20)}, {}))
        raise KeyboardInterrupt
    assert load_checkpoint(tmp_path).step == 1


@pytest.mark.parametrize("ask", ["due", "save", "end"])
def test_an_error_of_the_writer_ends_the_stage_and_keeps_the_checkpoint_before(tmp_path, ask):
    unwritable = {"w": torch.zeros(2, dtype=torch.complex32)}  # safetensors has no such type
    with (
        pytest.raises(StageFailed, match=r"could not be written .*the one before it is complete"),
        CheckpointWriter(tmp_path, SFT(async_checkpoints=True)) as writer,
    ):
        writer.save(Checkpoint(1, {"w": torch.ones(2)}, {}))
        writer.save(Checkpoint(2, unwritable, {}))
        if ask == "due":
            while writer.due(3) is False:
                pass
        if ask == "save":
            writer.save(Checkpoint(3, {"w": torch.ones(2)}, {}))
    assert load_checkpoint(tmp_path).step == 1


@pytest.mark.parametrize("beside_steps", [False, True])
def test_a_stage_that_is_asked_to_stop_saves_at_the_next_block_and_ends(tmp_path, beside_steps):
    config = PPO(checkpoint_every=10, async_checkpoints=beside_steps)
    stop, folder = tmp_path / "stop", tmp_path / "checkpoints"
    with (
        pytest.raises(LimitReached, match="stopped after step 4, with a checkpoint"),
        CheckpointWriter(folder, config, block=2, stop=stop) as writer,
    ):
        assert not writer.due(2)
        stop.touch()
        assert not writer.due(3) and writer.due(4)
        writer.save(Checkpoint(4, {"w": torch.ones(1 << 20)}, {}))
    assert load_checkpoint(folder).step == 4


KILLED = """
import sys, torch
from pathlib import Path
from rlhf_core.config import SFT
from rlhf_core.engine.checkpoint import Checkpoint
from rlhf_core.engine.checkpoint_writer import CheckpointWriter
writer = CheckpointWriter(Path(sys.argv[1]), SFT(async_checkpoints=True))
writer.save(Checkpoint(1, {"w": torch.ones(4)}, {}))
writer.save(Checkpoint(2, {"w": torch.ones(1 << 26)}, {}))
print("writing", flush=True)
writer.wait()
print("written", flush=True)
sys.stdin.read()
"""


def test_a_kill_while_a_checkpoint_is_written_leaves_the_one_before(tmp_path):
    program = [sys.executable, "-c", KILLED, str(tmp_path)]
    with subprocess.Popen(program, stdout=subprocess.PIPE, stdin=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"writing\n"
        process.send_signal(signal.SIGKILL)
        said = process.stdout.read()
    found = load_checkpoint(tmp_path)
    assert (said, found.step) == (b"", 1)
    assert (tmp_path / ".step-2.tmp").is_dir()

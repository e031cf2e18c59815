"""Checkpoints are complete or absent, the last few are kept, and a damaged one is passed over."""

import pytest
import torch

from rlhf_core.config import PPO
from rlhf_core.engine.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from rlhf_core.errors import Diverged
from rlhf_core.ppo.trainer import check
from rlhf_core.rundir import RunDir, read_metrics


def save(folder, *steps, keep=2) -> None:
    for step in steps:
        save_checkpoint(
            folder,
            Checkpoint(step, {"w": torch.full((3,), float(step))}, {"beta": step / 10}),
            keep=keep,
        )


def test_newest_checkpoint_comes_back_with_its_tensors_and_random_state(tmp_path):
    save(tmp_path, 1)
    expected = torch.rand(2)
    torch.manual_seed(99)
    found = load_checkpoint(tmp_path)
    assert (found.step, found.extra, found.tensors["w"].tolist()) == (1, {"beta": 0.1}, [1.0] * 3)
    assert torch.rand(2).equal(expected)


def test_a_checkpoint_of_a_gpu_loads_where_there_is_none(tmp_path):
    """Its generators' states reach no engine: `load_state` takes what it has a place for."""
    tensors = {"w": torch.ones(1), "rng_cuda/7": torch.get_rng_state()}
    save_checkpoint(tmp_path, Checkpoint(1, tensors, {}), keep=1)
    assert set(load_checkpoint(tmp_path).tensors) == {"w"}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_random_state_of_every_gpu_comes_back(tmp_path):
    devices = range(torch.cuda.device_count())
    save(tmp_path, 1)
    expected = [torch.rand(3, device=f"cuda:{device}") for device in devices]
    dropped = [torch.dropout(torch.ones(64, device="cuda"), 0.5, train=True) for _ in range(2)]
    torch.cuda.manual_seed_all(99)
    load_checkpoint(tmp_path)
    assert all(
        torch.rand(3, device=f"cuda:{device}").equal(numbers)
        for device, numbers in zip(devices, expected, strict=True)
    )
    again = [torch.dropout(torch.ones(64, device="cuda"), 0.5, train=True) for _ in range(2)]
    assert all(a.equal(b) for a, b in zip(dropped, again, strict=True))


def test_only_the_newest_are_kept(tmp_path):
    save(tmp_path, 1, 2, 10)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-000002", "step-000010"]


@pytest.mark.parametrize("damage", ["truncate", "remove", "one bit"])
def test_damaged_checkpoint_is_passed_over_for_the_one_before(tmp_path, damage, capsys):
    save(tmp_path, 1, 2)
    file = tmp_path / "step-000002" / "state.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.unlink()
    if damage != "remove":
        file.write_bytes(data[:20] if damage == "truncate" else data)
    assert load_checkpoint(tmp_path).step == 1
    assert "checkpoint step-000002 cannot be read" in capsys.readouterr().out


def test_half_written_checkpoint_does_not_count(tmp_path):
    save(tmp_path, 1)
    (tmp_path / ".step-2.tmp").mkdir()
    assert load_checkpoint(tmp_path).step == 1


def test_half_written_checkpoints_of_every_step_are_removed_by_the_next_one(tmp_path):
    for name in (".step-2.tmp", ".step-57.tmp"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "state.safetensors").write_bytes(b"half")
    save(tmp_path, 3)
    assert [path.name for path in tmp_path.iterdir()] == ["step-000003"]


def test_tied_weights_are_saved_once_for_each_name(tmp_path):
    tied = torch.ones(2, 2)
    save_checkpoint(tmp_path, Checkpoint(1, {"a": tied, "b": tied}, {}), keep=1)
    assert load_checkpoint(tmp_path).tensors["b"].equal(tied)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_non_finite_value_stops_ppo_and_is_named(value):
    with pytest.raises(Diverged, match="policy_loss"):
        check({"ppo/policy_loss": value, "ppo/kl_per_response": 0.0}, 3, PPO())


def test_kl_at_the_budget_passes_and_above_it_stops():
    check({"ppo/kl_per_response": 100.0}, 1, PPO(kl_budget=100))
    with pytest.raises(Diverged, match="budget is 100"):
        check({"ppo/kl_per_response": 100.1}, 1, PPO(kl_budget=100))


def test_metrics_line_cut_off_by_a_kill_is_dropped_and_a_repeated_step_is_not_doubled(tmp_path):
    RunDir(tmp_path).log(1, 3, {"sft/loss": 1.0})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 2, "st')
    run = RunDir(tmp_path)
    run.log(1, 3, {"sft/loss": 1.0})
    run.log(2, 3, {"sft/loss": 0.5})
    assert [line["step"] for line in read_metrics(tmp_path / "metrics.jsonl")] == [1, 2]


def test_undeclared_metric_is_refused(tmp_path):
    with pytest.raises(KeyError, match="not declared"):
        RunDir(tmp_path).log(1, 1, {"sft/lossy": 1.0})

"""AdamW's moments in a mapped file: the numbers of moments in memory, and pages only in steps."""

import copy
import os
import tempfile
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import torch

from rlhf_core.config import SFT
from rlhf_core.engine import moments_on_disk, scratch
from rlhf_core.engine.moments_on_disk import MomentsOnDisk
from rlhf_core.engine.scratch import moments_folder
from rlhf_core.errors import BadInput

SIZES = (3, 1000, 200_000)
RATE = 0.1


def made(folder: Path | None) -> tuple[torch.optim.Optimizer, list[torch.Tensor]]:
    weights = [torch.linspace(-1, 1, size).requires_grad_() for size in SIZES]
    optimizer = torch.optim.AdamW(weights, lr=RATE, weight_decay=0.1, fused=True)
    if folder:
        MomentsOnDisk(optimizer, weights, folder)
    return optimizer, weights


def step(optimizer: torch.optim.Optimizer, weights: list[torch.Tensor]) -> None:
    for number, weight in enumerate(weights):
        weight.grad = (weight * (number + 2)).detach()
    optimizer.step()


def resident(folder: Path) -> list[int]:
    """The bytes in memory of each mapped file of a folder."""
    maps = psutil.Process().memory_maps(grouped=False)
    return [one.rss for one in maps if one.path.startswith(str(folder))]


def test_steps_and_state_are_those_of_moments_in_memory(tmp_path):
    in_memory, on_disk = made(None), made(tmp_path)
    for _ in range(3):
        for optimizer, weights in (in_memory, on_disk):
            step(optimizer, weights)
    states = [optimizer.state_dict()["state"] for optimizer, _ in (in_memory, on_disk)]
    for index, expected in states[0].items():
        assert expected.keys() == states[1][index].keys()
        assert all(torch.equal(value, states[1][index][name]) for name, value in expected.items())
    assert all(map(torch.equal, in_memory[1], on_disk[1]))


def test_between_steps_nothing_of_the_file_is_in_memory(tmp_path):
    optimizer, weights = made(tmp_path)
    step(optimizer, weights)
    assert resident(tmp_path) == [0]
    assert optimizer.state[weights[2]]["exp_avg"].abs().sum() > 0  # read again from the file
    assert resident(tmp_path)[0] > 0
    step(optimizer, weights)
    assert resident(tmp_path) == [0]


def test_loaded_moments_go_to_the_file_and_the_next_steps_are_the_same(tmp_path):
    (first, weights), (second, others) = made(tmp_path), made(tmp_path)
    step(first, weights)
    in_file = second.state[others[2]]["exp_avg"].data_ptr()
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    assert second.state[others[2]]["exp_avg"].data_ptr() == in_file
    with torch.no_grad():
        for target, value in zip(others, weights, strict=True):
            target.copy_(value)
    for optimizer, own in ((first, weights), (second, others)):
        step(optimizer, own)
    assert all(map(torch.equal, weights, others))


def test_the_file_has_no_name_and_so_stays_for_nobody(tmp_path):
    made(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_found_before_the_first_step(tmp_path, monkeypatch):
    def full(*_: int) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(moments_on_disk.os, "posix_fallocate", full)
    with pytest.raises(BadInput, match=rf"needs 0.00 GiB in {tmp_path}: No space left .* TMPDIR"):
        made(tmp_path)


def test_moments_in_memory_need_no_folder(monkeypatch):
    monkeypatch.setattr(scratch.tempfile, "gettempdir", lambda: "/dev/shm")
    assert moments_folder(SFT(), cuda=True) is None
    assert moments_folder(SFT(zero_stage=1, offload_optimizer=True), cuda=True) is None


def test_the_folder_is_that_of_temporary_files(monkeypatch):
    monkeypatch.setattr(scratch, "_file_system", lambda folder: "ext4")
    assert moments_folder(SFT(offload_optimizer="disk"), cuda=False) == Path(tempfile.gettempdir())


def test_a_folder_in_main_memory_is_refused(monkeypatch, tmp_path):
    mounts = [SimpleNamespace(mountpoint="/", fstype="ext4")]
    monkeypatch.setattr(scratch.psutil, "disk_partitions", lambda all: mounts)
    monkeypatch.setattr(scratch.tempfile, "gettempdir", lambda: str(tmp_path / "own"))
    assert moments_folder(SFT(offload_optimizer="disk"), cuda=False) == tmp_path / "own"
    mounts.append(SimpleNamespace(mountpoint=str(tmp_path), fstype="tmpfs"))
    with pytest.raises(BadInput, match=rf"{tmp_path}/own, .* main memory \(tmpfs\).* TMPDIR"):
        moments_folder(SFT(offload_optimizer="disk"), cuda=False)


def test_on_gpus_it_needs_zero_1(monkeypatch):
    monkeypatch.setattr(scratch, "_file_system", lambda folder: "ext4")
    on_disk = {"offload_optimizer": "disk"}
    with pytest.raises(BadInput, match=r"'disk' with zero_stage 0 on GPUs.* set zero_stage to 1"):
        moments_folder(SFT(**on_disk), cuda=True)
    assert moments_folder(SFT(zero_stage=1, **on_disk), cuda=True)

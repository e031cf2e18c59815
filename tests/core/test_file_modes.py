"""Weights follow the umask, as every other file of a run does."""

import os
from pathlib import Path

import pytest
import torch

from rlhf_core.config import LoRA
from rlhf_core.data.tokenizer import load_tokenizer
from rlhf_core.engine.checkpoint import Checkpoint, save_checkpoint
from rlhf_core.file_modes import usual_mode
from rlhf_core.modeling.lora import add_adapter, save_adapter
from rlhf_core.modeling.models import load_policy, save_model


@pytest.fixture(params=[0o022, 0o027, 0o077, 0o002], ids=oct)
def expected(request):
    """Set the umask, and return the mode of a new file."""
    before = os.umask(request.param)
    yield 0o666 & ~request.param
    os.umask(before)


def modes(folder: Path) -> dict[str, int]:
    return {file.name: file.stat().st_mode & 0o777 for file in folder.rglob("*") if file.is_file()}


def test_the_usual_mode_is_that_of_a_new_file(expected, tmp_path):
    (tmp_path / "new").touch()
    assert usual_mode() == expected == modes(tmp_path)["new"]


def test_a_saved_model_has_the_mode_of_its_other_files(expected, tiny_model, tmp_path):
    save_model(load_policy(tiny_model), load_tokenizer(tiny_model), tmp_path)
    found = modes(tmp_path)
    assert found["model.safetensors"] == expected and set(found.values()) == {expected}


def test_a_checkpoint_has_the_mode_of_its_other_files(expected, tmp_path):
    save_checkpoint(tmp_path, Checkpoint(1, {"w": torch.ones(2)}, {}), keep=1)
    found = modes(tmp_path)
    assert found["state.safetensors"] == expected and set(found.values()) == {expected}


def test_a_saved_adapter_has_the_mode_of_its_other_files(expected, tiny_model, tmp_path):
    model = load_policy(tiny_model).model
    add_adapter(model, LoRA(rank=2), seed=1)
    save_adapter(model, tmp_path / "adapter")
    found = modes(tmp_path)
    assert found["adapter_model.safetensors"] == expected and set(found.values()) == {expected}

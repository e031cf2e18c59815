"""Checkpoints: safetensors and JSON, complete or absent, the last few kept."""

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor


@dataclass(frozen=True)
class Checkpoint:
    """What a stage needs to go on after `step`."""

    step: int
    tensors: dict[str, Tensor]
    extra: dict


def save_checkpoint(folder: Path, checkpoint: Checkpoint, *, keep: int) -> None:
    """Write `step-N` by rename, then remove all but the newest `keep`. The torch RNG state is kept too."""
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f".step-{checkpoint.step}.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    tensors = {name: value.detach().cpu().contiguous() for name, value in checkpoint.tensors.items()}
    tensors["rng"] = torch.get_rng_state()
    save_file(_unshared(tensors), temporary / "state.safetensors")
    (temporary / "extra.json").write_text(json.dumps({"step": checkpoint.step, "extra": checkpoint.extra}))
    for file in temporary.iterdir():
        with file.open("rb") as handle:
            os.fsync(handle.fileno())
    final = folder / f"step-{checkpoint.step:06d}"
    shutil.rmtree(final, ignore_errors=True)
    temporary.rename(final)
    for old in _newest_first(folder)[keep:]:
        shutil.rmtree(old)


def _unshared(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tied weights are written twice: safetensors refuses shared memory, and loading ties them again."""
    seen: set[int] = set()
    result = {}
    for name, value in tensors.items():
        result[name] = value.clone() if value.data_ptr() in seen else value
        seen.add(value.data_ptr())
    return result


def load_checkpoint(folder: Path) -> Checkpoint | None:
    """The newest readable checkpoint (a damaged one is passed over, with a line on stdout), or None."""
    for path in _newest_first(folder):
        try:
            tensors = load_file(path / "state.safetensors")
            record = json.loads((path / "extra.json").read_text())
        except (SafetensorError, OSError, ValueError) as error:
            print(f"checkpoint {path.name} cannot be read ({error}); trying the one before it")
            continue
        torch.set_rng_state(tensors.pop("rng"))
        return Checkpoint(record["step"], tensors, record["extra"])
    return None


def _newest_first(folder: Path) -> list[Path]:
    return sorted(folder.glob("step-*"), reverse=True)

"""Seconds that training waits for a checkpoint, written in the step and beside the steps.

    .venv/stage/bin/python infra/bench/checkpoints.py [MIB] [REPEATS]

A model of linear layers with AdamW's state of MIB in all takes steps in this process. Both variants
write the same files in turn; the table has the median over the repeats. Prints the machine's load.
"""

import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch
from torch import nn

from rlhf_core.config import SFT
from rlhf_core.engine.checkpoint import Checkpoint
from rlhf_core.engine.checkpoint_writer import CheckpointWriter

WIDTH = 1024
MIB_OF_LAYER = 3 * 4 * WIDTH * WIDTH / 2**20  # a weight and two moments, float32
VARIANTS = {"in the step": False, "beside the steps": True}


class Steps:
    """Steps of AdamW on layers whose state has a given size."""

    def __init__(self, mib: int):
        count = max(1, round(mib / MIB_OF_LAYER))
        self.layers = nn.Sequential(*[nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(count)])
        self.optimizer = torch.optim.AdamW(self.layers.parameters(), lr=1e-4, fused=True)
        self.rows = torch.randn(256, WIDTH)

    def __call__(self) -> None:
        """Take one step."""
        self.layers(self.rows).square().mean().backward()
        self.optimizer.step()
        self.optimizer.zero_grad()

    def checkpoint(self, step: int) -> Checkpoint:
        """Return the state of this moment."""
        tensors = {f"weights/{name}": value for name, value in self.layers.state_dict().items()}
        for index, entry in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer/{index}/{key}": value for key, value in entry.items()}
        return Checkpoint(step, tensors, {})


def measured(steps: Steps, folder: Path, *, beside: bool) -> tuple[float, float]:
    """Return the seconds of `save`, and those from it until ten more steps are taken."""
    with CheckpointWriter(folder, SFT(async_checkpoints=beside, keep_checkpoints=1)) as writer:
        began = time.monotonic()
        writer.save(steps.checkpoint(1))
        saved = time.monotonic() - began
        for _ in range(10):
            steps()
        return saved, time.monotonic() - began


def main(mib: int = 1024, repeats: int = 5) -> None:
    """Print the table."""
    steps, found = Steps(mib), {name: [] for name in VARIANTS}
    steps()
    for _ in range(repeats):
        for name, beside in VARIANTS.items():
            with tempfile.TemporaryDirectory() as folder:
                found[name].append(measured(steps, Path(folder), beside=beside))
    print(f"{mib} MiB, {repeats} repeats, load {os.getloadavg()[0]:.1f}")
    print(f"{'written':18} {'wait s':>8} {'wait and ten steps s':>22}")
    for name, times in found.items():
        waits, totals = zip(*times, strict=True)
        print(f"{name:18} {statistics.median(waits):8.2f} {statistics.median(totals):22.2f}")
    waits = {name: statistics.median(wait for wait, _ in times) for name, times in found.items()}
    print(f"ratio of the waits {waits['beside the steps'] / waits['in the step']:.2f}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))

"""The check of a GPU runs every part on tiny shapes of a CPU, and prints a row for each."""

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
CHECK = ROOT / "infra" / "gpu" / "check.py"


def check(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(CHECK), *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=900, env=os.environ)


def test_without_a_gpu_it_says_so_at_once():
    refused = subprocess.run(
        [sys.executable, str(CHECK)],
        capture_output=True,
        text=True,
        env=os.environ | {"CUDA_VISIBLE_DEVICES": ""},
    )
    assert refused.returncode == 2 and "--device cpu" in refused.stderr


@pytest.mark.slow
def test_every_part_runs_on_tiny_shapes_and_meets_its_goals(tmp_path):
    done = check("--device", "cpu", "--tiny", "--out", str(tmp_path / "check.json"))
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    rows = json.loads((tmp_path / "check.json").read_text())["rows"]
    counts = {"sft": 5, "packing": 10, "logits": 3, "ppo": 2, "resume": 1}
    assert Counter(row["part"] for row in rows) == counts
    goals = {row["part"]: row["met"] for row in rows if row["met"] is not None}
    assert goals == {"logits": True, "resume": True}

"""The parts of check.py that run stage processes: PPO at ZeRO 0 and 2, and resuming."""

import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import workload
from check import ROOT, Row, Sizes
from ours import spec_of
from shapes import SHAPES, Shape

from rlhf_core.digest import code_digest, digest_path
from rlhf_core.rundir import Artifact, StageSpec, read_metrics

LONGEST = 240  # seconds of one stage process
SECONDS = ("rollout", "scoring", "update")


def ppo(sizes: Sizes) -> list[Row]:
    """Run PPO steps with the sampler `transformers`; return the seconds of a step."""
    shape, rows = _shape(sizes), []
    with tempfile.TemporaryDirectory(prefix="check-") as name:
        folder = Path(name)
        workload.write(folder, shape)
        for zero_stage in (0, 2):
            spec = _ppo_spec(folder, shape, zero_stage, sizes)
            run_dir = folder / f"ppo-{zero_stage}"
            _finish(spec, run_dir)
            steps = [line["metrics"] for line in read_metrics(run_dir / "metrics.jsonl")][1:]
            parts = [statistics.median(s[f"ppo/seconds_{part}"] for s in steps) for part in SECONDS]
            told = " + ".join(f"{value:.2f}" for value in parts)
            what = f"ZeRO {zero_stage}: seconds of {' + '.join(SECONDS)}"
            rows.append(Row("ppo", what, told))
    return rows


def resume(sizes: Sizes) -> list[Row]:
    """Kill an SFT stage that learns an adapter with dropout; return whether it ends the same."""
    with tempfile.TemporaryDirectory(prefix="check-") as name:
        folder = Path(name)
        workload.write(folder, _shape(sizes))
        section = {
            "epochs": 6,
            "batch_size": 2,
            "max_heldout": 1,
            "checkpoint_every": 2,
            "lora": {"dropout": 0.2},
        }
        splits = ("demonstrations_train", "demonstrations_heldout")
        inputs = {name: folder / "equal" / f"{name}.jsonl" for name in splits}
        spec = spec_of("sft", inputs | {"model": folder / "model"}, section, _dtype(sizes))
        _finish(spec, folder / "whole")
        _kill_after(spec, folder / "killed", steps=5)
        _finish(spec, folder / "killed")
        whole, killed = (digest_path(folder / name / "model") for name in ("whole", "killed"))
    what = "SFT with dropout, killed and resumed"
    return [Row("resume", what, f"{whole[:12]} / {killed[:12]}", "the same bytes", whole == killed)]


def _shape(sizes: Sizes) -> Shape:
    return SHAPES["quick" if sizes.tiny else "full"]


def _dtype(sizes: Sizes) -> str:
    return "float32" if sizes.tiny else "bfloat16"


def _ppo_spec(folder: Path, shape: Shape, zero_stage: int, sizes: Sizes) -> StageSpec:
    section = {
        "steps": 2 if sizes.tiny else 4,
        "rollout_batch": shape.prompts,
        "minibatches": 1,
        "epochs": 1,
        "zero_stage": zero_stage,
        "kl_budget": 1e9,
        "sampling": {"engine": "transformers", "max_new_tokens": shape.reply_tokens},
    }
    inputs = {"policy": folder / "model", "reward": folder / "reward"}
    inputs["prompts_train"] = folder / "prompts_train.jsonl"
    return spec_of("ppo", inputs, section, _dtype(sizes))


def _start(spec: StageSpec, run_dir: Path) -> subprocess.Popen:
    run_dir.mkdir(exist_ok=True)
    inputs = {name: Artifact.of(item.path) for name, item in spec.inputs.items()}
    spec = spec.model_copy(update={"inputs": inputs, "code": code_digest()})
    file = run_dir / "spec.json"
    file.write_text(spec.model_dump_json(), encoding="utf-8")
    command = [sys.executable, "-m", "rlhf_core", spec.stage, str(file), str(run_dir)]
    with (run_dir / "stage.log").open("a", encoding="utf-8") as log:
        return subprocess.Popen(command, stdout=log, stderr=log, cwd=ROOT, env=dict(os.environ))


def _finish(spec: StageSpec, run_dir: Path) -> None:
    """Run a stage to its end. Raises RuntimeError with the end of its log where it fails."""
    process = _start(spec, run_dir)
    try:
        code = process.wait(LONGEST)
    finally:
        process.kill()
    if code != 0:
        log = (run_dir / "stage.log").read_text(encoding="utf-8")
        raise RuntimeError(f"{spec.stage} ended with exit code {code}: {log[-2000:]}")


def _kill_after(spec: StageSpec, run_dir: Path, *, steps: int) -> None:
    process, metrics = _start(spec, run_dir), run_dir / "metrics.jsonl"
    deadline = time.monotonic() + LONGEST
    while time.monotonic() < deadline and process.poll() is None:
        if metrics.exists() and len(_lines(metrics)) >= steps:
            break
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()


def _lines(path: Path) -> list[dict]:
    return [
        json.loads(line)
        for line in path.read_text(encoding="utf-8").splitlines()
        if line.endswith("}")
    ]

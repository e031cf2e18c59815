"""Seconds of a PPO step with rollouts in turn and one ahead, on a sampler of its own.

    .venv/stage/bin/python infra/bench/overlap.py [--shape small] [--steps 6] [--repeats 3]
                                                  [--share]

Both ways run in turn, each as a whole stage of its own: SmolLM2-135M's shape with random weights,
one epoch, vLLM as a server. Trainer and server have one core each, as they would have devices of
their own; --share lets both have all cores. A step is from its line in metrics.jsonl to the next
one's; the first step is left out. Prints the machine's load.
"""

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from pkgutil import resolve_name

import workload
from ours import ppo_section, spec_of
from shapes import SHAPES

from rlhf_core.rundir import RunDir, StageSpec, read_metrics
from rlhf_core.stage_catalogue import stage_named

WAYS = {"in turn": 0, "one ahead": 1}
KEYS = ("ppo/seconds_rollout", "ppo/seconds_waited", "ppo/seconds_scoring", "ppo/seconds_update")
STAGE = "--stage"  # this program as one stage: SPEC RUN_DIR


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--shape", choices=SHAPES, default="small")
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--share", action="store_true", help="both have all cores")
    options = parser.parse_args()
    found: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        folder = Path(name)
        workload.write(folder, SHAPES[options.shape])
        for repeat in range(options.repeats):
            ways = list(WAYS)[:: 1 if repeat % 2 else -1]
            for way in ways:
                run_dir = folder / f"{way}-{repeat}"
                found[way].append(_measured(_spec(folder, options, WAYS[way]), run_dir, options))
                print(f"{way}: {found[way][-1]} (load {os.getloadavg()[0]:.1f})", flush=True)
    ratios = [
        one["step"] / other["step"]
        for one, other in zip(found["one ahead"], found["in turn"], strict=True)
    ]
    print(f"ratio {statistics.median(ratios):.2f} [{min(ratios):.2f}, {max(ratios):.2f}]")


def _spec(folder: Path, options: argparse.Namespace, age: int) -> StageSpec:
    shape = SHAPES[options.shape]
    section = ppo_section(shape, "equal") | {
        "steps": options.steps,
        "max_rollout_age": age,
        "importance_cap": 2.0,
    }
    section["sampling"] |= {"engine": "vllm", "own_devices": 1}
    inputs = {"policy": folder / "model", "reward": folder / "reward"}
    inputs["prompts_train"] = folder / "prompts_train.jsonl"
    return spec_of("ppo", inputs, section, "float32")


def _measured(spec: StageSpec, run_dir: Path, options: argparse.Namespace) -> dict[str, float]:
    """Run a stage in a process of its own; return the seconds of a step, medians."""
    run_dir.mkdir()
    (run_dir / "spec.json").write_text(spec.model_dump_json(), encoding="utf-8")
    environment, start = dict(os.environ), []
    if not options.share:
        environment |= {"OMP_NUM_THREADS": "1", "VLLM_CPU_OMP_THREADS_BIND": "1"}
        start = ["taskset", "-c", "0"]
    command = [*start, sys.executable, __file__, STAGE, str(run_dir / "spec.json"), str(run_dir)]
    with (run_dir / "stage.log").open("w", encoding="utf-8") as log:
        done = subprocess.run(command, env=environment, stdout=log, stderr=log, check=False)
    if done.returncode:
        sys.exit((run_dir / "stage.log").read_text(encoding="utf-8")[-3000:])
    lines = read_metrics(run_dir / "metrics.jsonl")
    steps = [b["time"] - a["time"] for a, b in itertools.pairwise(lines)]
    seconds = {"step": statistics.median(steps)}
    for key in KEYS:
        values = [line["metrics"][key] for line in lines[1:] if key in line["metrics"]]
        seconds |= {key.removeprefix("ppo/seconds_"): statistics.median(values)} if values else {}
    return {name: round(value, 2) for name, value in seconds.items()}


def _run_stage(file: str, run_dir: str) -> None:
    values = json.loads(Path(file).read_text(encoding="utf-8"))
    config = resolve_name(stage_named("ppo").config).model_validate(values["config"])
    spec = StageSpec.model_validate(values | {"config": config})
    resolve_name(stage_named("ppo").entry)(spec, RunDir(Path(run_dir)))


if __name__ == "__main__":
    if sys.argv[1:2] == [STAGE]:
        _run_stage(*sys.argv[2:])
    else:
        main()

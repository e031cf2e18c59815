"""Run directories to be mirrored: one that is finished, and one that is half way."""

import json
from pathlib import Path

from rlhf_core.buckets import file_system
from rlhf_core.rundir import Artifact, StageResult, StageSpec
from tasks.mirror.remote import Remote

SPEC: StageSpec = StageSpec(stage="sft", seed=1, config={}, inputs={}, code="c")
NAME = f"sft-{SPEC.digest[:12]}"


def remote_in(folder: Path) -> Remote:
    """Return a remote that is a folder of this machine."""
    address = f"file://{folder}"
    return Remote(address, *file_system("RLHF_REMOTE", address))


def finished_run(runs: Path, text: str = "weights") -> Path:
    """Make a finished run directory."""
    run_dir = runs / NAME
    (run_dir / "model").mkdir(parents=True)
    (run_dir / "model" / "model.safetensors").write_text(text)
    (run_dir / "spec.json").write_text(SPEC.model_dump_json())
    (run_dir / "metrics.jsonl").write_text('{"step": 1}\n')
    (run_dir / "stage.log").write_text("hello\n")
    (run_dir / ".lock").touch()
    digest = Artifact.of(run_dir / "model").digest
    outputs = {"model": Artifact(path=Path("model"), digest=digest)}
    result = StageResult(stage="sft", digest=SPEC.digest, outputs=outputs, seconds=1.0)
    (run_dir / "result.json").write_text(result.model_dump_json())
    return run_dir


def stopped_run(runs: Path, step: int = 4) -> Path:
    """Make a run directory that was stopped after this step, with the checkpoint before it too."""
    run_dir = runs / NAME
    for number in (step - 2, step):
        add_checkpoint(run_dir, number)
    (run_dir / "metrics.jsonl").write_text(
        "".join(json.dumps({"step": number}) + "\n" for number in range(1, step + 2))
    )
    (run_dir / "evaluations.json").write_text("[]")
    (run_dir / "tokens").mkdir()
    for name in ("tokens/0.arrow", "spec.json", "stage.log", "system.jsonl", "launch.env"):
        (run_dir / name).write_text("of this machine")
    (run_dir / "checkpoints" / ".step-9.tmp").mkdir()
    (run_dir / "checkpoints" / ".step-9.tmp" / "state.safetensors").write_text("half")
    (run_dir / ".lock").touch()
    return run_dir


def on_ranks(ranks: int, seed: int = 1) -> StageSpec:
    """Return the spec of a stage that does the same work on any number of ranks."""
    config = {"ranks": ranks, "sft": {"lr": 0.001, "zero_stage": ranks - 1}}
    return StageSpec(stage="sft", seed=seed, config=config, inputs={}, code="c")


def stopped_on_ranks(runs: Path, spec: StageSpec, step: int) -> Path:
    """Make the run directory of a stage of these ranks that was stopped after a step."""
    run_dir = runs / f"sft-{spec.digest[:12]}"
    add_checkpoint(run_dir, step)
    (run_dir / "metrics.jsonl").write_text("".join(f'{{"step": {n + 1}}}\n' for n in range(step)))
    (run_dir / "spec.json").write_text(spec.model_dump_json())
    return run_dir


def add_checkpoint(run_dir: Path, step: int) -> None:
    """Add a complete checkpoint."""
    folder = run_dir / "checkpoints" / f"step-{step:06d}"
    folder.mkdir(parents=True)
    (folder / "state.safetensors").write_text(f"state {step}")
    (folder / "extra.json").write_text("{}")


def content(folder: Path) -> dict[str, bytes]:
    """Return the files below a folder that are not hidden, by relative path."""
    found = {}
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder)
        if path.is_file() and not any(part.startswith(".") for part in relative.parts):
            found[relative.as_posix()] = path.read_bytes()
    return found

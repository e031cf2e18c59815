"""Start stage processes: spec in, result out, killed after some steps when asked to."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from pydantic import BaseModel
from safetensors.torch import load_file

from rlhf_core.digest import code_digest
from rlhf_core.rundir import Artifact, StageResult, StageSpec, read_metrics, read_result


def splits_of(folder: Path, *names: str) -> dict[str, Path]:
    """Return the files of these splits by name."""
    return {name: folder / f"{name}.jsonl" for name in names}


def spec_of(stage: str, config: dict, inputs: dict[str, Path]) -> StageSpec:
    """Return the spec of a stage on these files and folders."""
    artifacts = {name: Artifact.of(path) for name, path in inputs.items()}
    return StageSpec(stage=stage, seed=1, config=config, inputs=artifacts, code=code_digest())


def section_spec(
    stage: str, section: BaseModel, inputs: dict[str, Path], **more: object
) -> StageSpec:
    """Return the spec of a stage from its section of the recipe; `more` adds to its config."""
    values = section.model_dump(mode="json", exclude={"gate"})
    return spec_of(stage, {stage: values, "dtype": "float32"} | more, inputs)


def start(spec: StageSpec, folder: Path) -> subprocess.Popen:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "spec.json").write_text(spec.model_dump_json())
    command = [
        sys.executable,
        "-m",
        "rlhf_core",
        spec.stage,
        str(folder / "spec.json"),
        str(folder),
    ]
    log = (folder / "stage.log").open("a")
    environment = os.environ | {"DS_ACCELERATOR": "cpu"}
    return subprocess.Popen(
        command, stdout=log, stderr=log, env=environment, start_new_session=True
    )


def finish(spec: StageSpec, folder: Path) -> StageResult:
    code = start(spec, folder).wait()
    result = read_result(folder)
    assert code == 0 and result, (folder / "stage.log").read_text()[-3000:]
    return result


def kill_after_steps(spec: StageSpec, folder: Path, steps: int) -> None:
    process = start(spec, folder)
    deadline = time.monotonic() + 600  # on a busy machine
    while len(read_metrics(folder / "metrics.jsonl")) < steps:
        assert process.poll() is None, (folder / "stage.log").read_text()[-3000:]
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def weights(result: StageResult) -> dict:
    return load_file(result.outputs["model"].path / "model.safetensors")


def assert_equal_weights(left: StageResult, right: StageResult) -> None:
    ours, theirs = weights(left), weights(right)
    assert ours.keys() == theirs.keys()
    assert all(ours[name].equal(theirs[name]) for name in ours)

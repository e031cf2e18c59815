"""A full disk and a corrupt newest checkpoint: the real stage still ends with the same bytes."""

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from stages import assert_equal_weights, finish, kill_after_steps, section_spec, splits_of

from rlhf_core.config import SFT
from rlhf_core.rundir import StageResult, StageSpec, read_metrics, read_result

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[3]
TRAINING = SFT(lr=3e-3, epochs=2, batch_size=16, checkpoint_every=2)


@pytest.fixture(scope="module")
def spec(tiny_model, tiny_splits) -> StageSpec:
    splits = splits_of(tiny_splits, "demonstrations_train", "demonstrations_heldout")
    return section_spec("sft", TRAINING, {"model": tiny_model} | splits, train=True)


@pytest.fixture(scope="module")
def undisturbed(spec, tmp_path_factory) -> StageResult:
    return finish(spec, tmp_path_factory.mktemp("undisturbed") / "run")


# Runs in a mount namespace of its own, where RUNS is a file system of a few MiB that is enlarged
# after the failure.
FULL = """
import json, shutil, subprocess, sys
from pathlib import Path
from rlhf_core.errors import StageFailed
from rlhf_core.rundir import StageSpec
from tasks.execution.stage_process import run_stage

runs, keep = Path(sys.argv[1]), Path(sys.argv[2])
run = runs / "sft"
run.mkdir()
spec = StageSpec.model_validate_json((keep / "spec.json").read_text())
try:
    run_stage(spec, run)
except StageFailed as error:
    said = str(error)
checkpoints = sorted(path.name for path in (run / "checkpoints").glob("step-*"))
unfinished = not (run / "result.json").exists()
subprocess.run(["mount", "-o", "remount,size=200m", str(runs)], check=True)
run_stage(spec, run)
shutil.copytree(run, keep / "run")
found = {"said": said, "checkpoints": checkpoints, "unfinished": unfinished}
(keep / "said.json").write_text(json.dumps(found))
"""


def test_a_disk_that_fills_up_while_a_checkpoint_is_written(spec, undisturbed, tmp_path):
    (tmp_path / "spec.json").write_text(spec.model_dump_json())
    runs = tmp_path / "runs"
    runs.mkdir()
    (tmp_path / "full.py").write_text(textwrap.dedent(FULL))
    size = (undisturbed.outputs["model"].path / "model.safetensors").stat().st_size
    # two checkpoints of weights and AdamW's two moments each; the third does not fit
    room = size * 8 // 1024
    script = (
        f'mount -t tmpfs -o size={room}k none "{runs}" && exec "{sys.executable}" "$0" "{runs}"'
        f' "{tmp_path}"'
    )
    apart = ["unshare", "--user", "--map-root-user", "--mount"]
    given = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [*apart, "sh", "-c", script, str(tmp_path / "full.py")],
        capture_output=True,
        text=True,
        env=given,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads((tmp_path / "said.json").read_text())
    assert (
        "No space left on device" in found["said"]
        and "stage sft ended with exit code 1; its log is" in found["said"]
    )
    assert found["checkpoints"] and found["unfinished"]
    steps = [line["step"] for line in read_metrics(tmp_path / "run" / "metrics.jsonl")]
    assert steps == list(range(1, len(steps) + 1))
    assert_equal_weights(undisturbed, read_result(tmp_path / "run"))


@pytest.mark.parametrize("damage", ["cut", "one bit", "empty"])
def test_a_corrupt_checkpoint_is_passed_over_and_the_log_says_so(
    spec, undisturbed, tmp_path, damage
):
    run = tmp_path / "run"
    kill_after_steps(spec, run, 5)
    newest = sorted((run / "checkpoints").glob("step-*"))[-1] / "state.safetensors"
    data = bytearray(newest.read_bytes())
    data[len(data) // 2] ^= 1
    newest.write_bytes({"cut": data[: len(data) // 2], "one bit": data, "empty": b""}[damage])
    assert_equal_weights(undisturbed, finish(spec, run))
    assert f"checkpoint {newest.parent.name} cannot be read" in (run / "stage.log").read_text()
    steps = [line["step"] for line in read_metrics(run / "metrics.jsonl")]
    assert steps == list(range(1, len(steps) + 1))

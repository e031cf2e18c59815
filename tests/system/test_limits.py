"""A run of real stages that its limit stops, and the same run with a raised limit."""

import json
import shutil

import pytest

from tasks.execution.usage import used

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]  # on a busy machine
SFT = ("sft.max_train=512", "sft.epochs=1")


def taken(workspace, *stages: str) -> float:
    """Return the hours that stages have taken so far."""
    folders = [folder for stage in stages for folder in workspace.run_dirs(stage)]
    return sum(used(folder).hours for folder in folders)


def test_a_limit_stops_a_stage_at_a_step_and_a_raised_one_ends_with_the_same_bytes(open_workspace):
    stopped, whole = open_workspace(), open_workspace()
    assert stopped.run(words=("--until", "validate"))[0] == 0
    shutil.copytree(stopped.home / "runs", whole.home / "runs")
    # a second of SFT: it is over while the models are loaded, so that the first step is the last
    limit = f"limits.hours={taken(stopped, 'prepare', 'validate') + 1 / 3600:.6f}"
    code, document, err = stopped.run(*SFT, limit, words=("--until", "sft"))
    assert code == 2 and document["error_code"] == "RLHF-G003", err
    assert "sft stopped after step 1, with a checkpoint" in err
    (folder,) = stopped.run_dirs("sft")
    assert [path.name for path in (folder / "checkpoints").iterdir()] == ["step-000001"]
    assert document["stages"][-1]["gates"][0]["gate"] == "limits.hours"
    # the same limit again starts nothing: the time of the first attempt counts
    before = taken(stopped, "sft")
    code, _, err = stopped.run(*SFT, limit, words=("--until", "sft"))
    assert code == 2 and "sft was not started" in err and taken(stopped, "sft") == before
    code, document, err = stopped.run(*SFT, "limits.hours=9", words=("--until", "sft"))
    assert code == 0, err
    assert [one["stage"] for one in document["stages"] if one["cached"]] == ["prepare", "validate"]
    assert stopped.run_dirs("sft") == [folder] and not (folder / "stop").exists()
    steps = [json.loads(line)["step"] for line in (folder / "metrics.jsonl").open()]
    assert steps == list(range(1, 17)) and taken(stopped, "sft") > before
    code, _, err = whole.run(*SFT, words=("--until", "sft"))
    assert code == 0, err
    digests = [one.result("sft")["outputs"]["model"]["digest"] for one in (stopped, whole)]
    assert digests[0] == digests[1]

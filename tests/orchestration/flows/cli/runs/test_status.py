"""`rlhf status`: running and interrupted runs, an empty workspace."""

import json

from tasks.records.run_record import Record, record_lock
from tasks.records.workspace import Workspace


def test_status_tells_running_from_interrupted(rlhf, home, tmp_path):
    workspace = Workspace(home)
    values = {
        "recipe": {"name": "t"},
        "commit": "c",
        "dirty": False,
        "tracking_uri": "x",
        "started": 1_700_000_000_000,
    }
    for name in ("a", "b"):
        stage = {"stage": "sft", "run_dir": str(tmp_path / name), "started": 1_700_000_000_000}
        Record.model_validate(values | {"id": name, "name": f"t-{name}", "stages": [stage]}).save(
            workspace
        )
        (tmp_path / name).mkdir()
    (tmp_path / "b" / "metrics.jsonl").write_text(
        '{"step": 7, "steps": 20, "metrics": {}}\n{"step": 8, "st'
    )
    with record_lock(workspace, "b"):
        latest, older = json.loads(rlhf("status", "--json")[1])
    assert (latest["state"], older["state"]) == ("running", "interrupted")
    assert latest["stages"][0]["progress"] == "7/20"


def test_status_of_an_empty_workspace_says_how_to_start(rlhf):
    assert "rlhf run quickstart" in rlhf("status")[1]

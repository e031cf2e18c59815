"""The trace starts from what the run's stages have left, wherever that is."""

import pytest

from rlhf_core.config import load_recipe
from rlhf_core.errors import BadInput
from rlhf_core.rundir import Artifact, StageResult
from rlhf_core.stage_catalogue import PREPARE
from tasks.records.run_record import Record, StageRecord
from tasks.records.workspace import Workspace
from tasks.stages.trace import inputs, require_traceable


def test_a_stage_is_found_where_its_run_has_it(tmp_path):
    """A search for leaks changes held-out splits, and so where a stage after it is."""
    recipe, workspace = load_recipe("quickstart", []), Workspace(tmp_path / "home")
    place = tmp_path / "elsewhere"
    (place / "model").mkdir(parents=True)
    (place / "model" / "config.json").write_text("{}", encoding="utf-8")
    model = {"model": Artifact(path="model", digest="ab")}
    result = StageResult(stage="prepare", digest="cd", outputs=model, seconds=1.0)
    (place / "result.json").write_text(result.model_dump_json(), encoding="utf-8")
    stage = StageRecord(stage="prepare", run_dir=place, started=1)
    record = Record(
        id="r", name="quickstart-1", recipe={}, commit="c", dirty=False, tracking_uri="sqlite://",
        started=1, stages=[stage],
    )  # fmt: skip
    have = inputs(recipe, workspace, (PREPARE,), record=record)
    assert [artifact.path for artifact in have.values()] == [place / "model"]
    with pytest.raises(BadInput, match="stage prepare of recipe quickstart has not been run"):
        inputs(recipe, workspace, (PREPARE,))


def test_ranks_that_nothing_would_start_are_refused(tmp_path):
    """The trace has no --print-launch, so it would wait for them for ever."""
    hostfile = tmp_path / "hosts"
    hostfile.write_text("a slots=1\nb slots=1\n", encoding="utf-8")
    hosts = [f"distributed.hostfile={hostfile}", "distributed.master_addr=a"]
    by_hand = [*hosts, "distributed.launcher=by_hand"]
    with pytest.raises(BadInput, match="'by_hand' would wait for ranks on b, for which nothing"):
        require_traceable(load_recipe("quickstart", by_hand))
    for settings in (hosts, ["distributed.ranks=2"], []):
        require_traceable(load_recipe("quickstart", settings))
    with pytest.raises(BadInput, match="align = 'dpo': there is no PPO batch to trace"):
        require_traceable(load_recipe("quickstart-dpo", []))

"""`rlhf gc`: it removes what is old and unused, and nothing that is under way."""

import fcntl
import json
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from command_line import rlhf_exit_code
from old_runs import LIMIT, OLD, aged, collect, record, run_dir, version

from rlhf_core.digest import digest_path
from rlhf_core.errors import RLHFError
from rlhf_core.rundir import StageResult, StageSpec
from tasks.cleanup import retention
from tasks.cleanup.item import size
from tasks.execution import stage_process

# what goes


def test_an_old_finished_or_refused_run_that_nothing_refers_to_is_removed(workspace):
    finished, refused = run_dir(workspace, "sft", 1), run_dir(workspace, "ppo", 2, state="refused")
    record(workspace, 1, [finished, refused])
    assert collect(workspace) == {finished.name, refused.name}


def test_a_dry_run_says_the_same_and_removes_nothing(workspace, capsys):
    path = run_dir(workspace, "sft", 1)
    assert rlhf_exit_code("gc", "--dry-run", "--json") == 0
    (item,) = json.loads(capsys.readouterr().out)["removed"]
    assert (
        item["path"] == str(path)
        and item["bytes"] >= len("weights 1")
        and item["days"] == pytest.approx(OLD, abs=0.1)
    )
    assert path.exists()
    assert rlhf_exit_code("gc") == 0 and not path.exists()
    assert "1 removed" in capsys.readouterr().out


def test_age_counts_from_the_last_run_that_used_it(workspace):
    path = run_dir(workspace, "sft", 1)
    record(workspace, 1, [path], days=OLD)
    record(workspace, 2, [path], days=LIMIT - 1)
    assert collect(workspace) == set()
    assert collect(workspace, days=LIMIT - 2) == {path.name}


def test_a_clock_that_was_wrong_removes_nothing(workspace):
    path = run_dir(workspace, "sft", 1, days=-400)
    assert collect(workspace, days=0) == set() and path.exists()


def test_checkpoints_that_a_kill_left_in_a_finished_run_are_removed_and_the_run_stays(
    workspace, client
):
    path = run_dir(workspace, "ppo", 1)
    (path / "checkpoints" / "step-000001").mkdir(parents=True)
    (path / "checkpoints" / "step-000001" / "state.safetensors").write_text("x" * 1000)
    (path / "tokens").mkdir()
    (path / "tokens" / "00000-of-00001.arrow").write_text("x")
    version(client, "tiny-policy", digest=digest_path(path / "model"))
    aged(path)
    assert collect(workspace) == {"checkpoints", "tokens"}
    assert (path / "model" / "model.safetensors").exists() and not (path / "checkpoints").exists()


def test_old_reports_go_except_those_of_runs_that_are_needed(workspace, client):
    kept, gone = run_dir(workspace, "ppo", 1), run_dir(workspace, "ppo", 2)
    version(client, "tiny-policy", pipeline_run_id=record(workspace, 1, [kept]).run_id)
    names = [
        f"{item.id}-{item.name}"
        for item in (record(workspace, 1, [kept]), record(workspace, 2, [gone]))
    ]
    for name in names:
        (workspace.home / "reports" / name).mkdir(parents=True)
        (workspace.home / "reports" / name / "report.html").write_text("report")
    for name in ("comparison.html", "notes.txt"):
        (workspace.home / "reports" / name).write_text("x")
    aged(workspace.home / "reports")
    assert collect(workspace) == {gone.name, names[1], "comparison.html"}


def test_what_this_project_did_not_name_is_never_removed(workspace, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").write_text("x")
    workspace.runs.mkdir()
    (workspace.runs / "sft-00000000000a").symlink_to(tmp_path / "mine")
    for name in ("my-model", "sft-123", "SFT-00000000000a", "sft-00000000000a.bak"):
        (workspace.runs / name).mkdir()
    (workspace.runs / "sft-00000000000b").write_text("a file")
    aged(workspace.runs)
    assert collect(workspace, days=0) == set()
    assert (tmp_path / "mine" / "file").exists() and len(list(workspace.runs.iterdir())) == 6


def test_a_link_inside_a_run_is_removed_and_not_followed(workspace, tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "rows.jsonl").write_text("x")
    path = run_dir(workspace, "sft", 1)
    (path / "link").symlink_to(tmp_path / "data")
    aged(path)
    assert collect(workspace) == {path.name} and (tmp_path / "data" / "rows.jsonl").exists()


def test_bytes_that_have_another_name_are_not_counted_as_freed(workspace, tmp_path):
    path = run_dir(workspace, "sft", 1)
    before = size(path)
    os.link(path / "model" / "model.safetensors", tmp_path / "registered")
    assert size(path) == before - len("weights 1")


# what is under way


def test_a_stage_that_is_running_stays(workspace):
    path = run_dir(workspace, "sft", 1)
    with (path / ".lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert collect(workspace, days=0) == set()
    assert collect(workspace, days=0) == {path.name}


def test_a_stage_that_starts_after_the_plan_was_made_stays(workspace):
    path = run_dir(workspace, "sft", 1)
    found = retention.plan(workspace, LIMIT)
    with (path / ".lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert retention.remove(workspace, found, LIMIT) == []
    assert path.exists()


def test_a_finished_stage_that_a_run_takes_after_the_plan_was_made_stays(workspace):
    path = run_dir(workspace, "sft", 1)
    found = retention.plan(workspace, LIMIT)
    record(workspace, 1, [path], sent=False, days=0, status="RUNNING", ended=None)
    assert retention.remove(workspace, found, LIMIT) == [] and path.exists()


def test_a_directory_that_changed_after_the_plan_was_made_stays(workspace):
    path = run_dir(workspace, "sft", 1)
    found = retention.plan(workspace, LIMIT)
    (path / "metrics.jsonl").write_text("{}\n")
    assert retention.remove(workspace, found, LIMIT) == [] and path.exists()


def test_an_unreadable_result_is_kept_and_named(workspace):
    path = run_dir(workspace, "sft", 1)
    (path / "result.json").write_text("{")
    aged(path)
    (kept,) = retention.plan(workspace, LIMIT).keep
    assert kept.path == path and "cannot be read" in kept.why and collect(workspace) == set()


# processes


def test_two_at_once_are_refused(workspace):
    with (workspace.home / ".gc.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(RLHFError, match="another rlhf gc"):
            retention.remove(workspace, retention.RemovalPlan([], []), LIMIT)


def test_what_a_killed_one_left_is_removed_by_the_next(workspace):
    path = run_dir(workspace, "sft", 1)
    path.rename(workspace.runs / f".gc-1-{path.name}")
    collect(workspace)


STAGE = """
import sys
from pathlib import Path
from rlhf_core.rundir import StageResult, write_atomically
result = StageResult(stage="sft", digest="d", seconds=1.0)
write_atomically(Path(sys.argv[3]) / "result.json", result.model_dump_json())
"""


def test_a_stage_that_waited_for_a_directory_that_was_removed_makes_it_anew(workspace):
    path, spec = (
        workspace.runs / "sft-00000000000c",
        StageSpec(stage="sft", seed=1, config={}, inputs={}, code="c"),
    )
    path.mkdir(parents=True)
    (path / "result.json").write_text(
        StageResult(stage="sft", digest="d", seconds=1.0).model_dump_json()
    )
    with (path / ".lock").open("w") as lock, ThreadPoolExecutor() as threads:
        fcntl.flock(lock, fcntl.LOCK_EX)
        waiting = threads.submit(
            stage_process.run_stage, spec, path, command=(sys.executable, "-c", STAGE)
        )
        while (
            sum(
                os.path.realpath(name) == str(path / ".lock")
                for name in Path("/proc/self/fd").iterdir()
            )
            < 2
        ):
            time.sleep(0.05)
        path.rename(workspace.home / "gone")
        fcntl.flock(lock, fcntl.LOCK_UN)
        assert waiting.result(timeout=60).cached is False
    assert stage_process.finished(path) is not None

"""`rlhf gc`: it removes what is old and unused, and never what a version, an alias, a ledger entry
or an open run needs.
"""

import fcntl
import json
import os
import shutil
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from command_line import rlhf_exit_code
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mlflow import MlflowClient

from rlhf_core.digest import digest_path
from rlhf_core.errors import RLHFError
from rlhf_core.rundir import Artifact, StageResult, StageSpec
from tasks.cleanup import retention
from tasks.execution import stage_process
from tasks.records.run_record import Record, Registration, StageRecord
from tasks.records.workspace import Workspace
from tasks.sweeps.sweep import Membership, Sweep, SweepPoint, SweepRow

OLD = 100.0  # days
LIMIT = 30.0


@pytest.fixture
def workspace(home) -> Workspace:
    return Workspace(home)


@pytest.fixture
def client(workspace) -> MlflowClient:
    return MlflowClient(tracking_uri=workspace.tracking_uri)


def aged(path: Path, days: float = OLD) -> Path:
    """Set the times of everything below to so many days ago."""
    when = time.time() - days * 86400
    for folder, folders, files in os.walk(path, topdown=False):
        for name in [*folders, *files]:
            os.utime(Path(folder) / name, (when, when), follow_symlinks=False)
    os.utime(path, (when, when))
    return path


def run_dir(
    workspace: Workspace,
    stage: str,
    number: int,
    *,
    inputs=(),
    state: str = "finished",
    days: float = OLD,
) -> Path:
    """A run directory as a stage leaves it; its bytes depend on its number."""
    path = workspace.runs / f"{stage}-{number:012x}"
    (path / "model").mkdir(parents=True)
    (path / "model" / "model.safetensors").write_text(f"weights {number}")
    (path / ".lock").touch()
    given = {
        other.name: Artifact(path=other / "model", digest=digest_path(other / "model"))
        for other in inputs
    }
    spec = StageSpec(stage=stage, seed=1, config={}, inputs=given, code="c")
    (path / "spec.json").write_text(spec.model_dump_json())
    if state == "finished":
        model = Artifact(path=Path("model"), digest=digest_path(path / "model"))
        result = StageResult(stage=stage, digest=spec.digest, outputs={"model": model}, seconds=1.0)
        (path / "result.json").write_text(result.model_dump_json())
    elif state == "refused":
        (path / "failure.json").write_text('{"error": "Diverged", "message": "m"}')
    else:
        (path / "checkpoints").mkdir()
    return aged(path, days)


def record(
    workspace: Workspace,
    number: int,
    dirs: list[Path],
    *,
    sent: bool = True,
    days: float = OLD,
    **changes,
) -> Record:
    """The record of a pipeline run through these directories."""
    when = int((time.time() - days * 86400) * 1000)
    stages = [
        StageRecord(
            stage=path.name.split("-")[0], run_dir=path, started=when, ended=when, status="FINISHED"
        )
        for path in dirs
    ]
    values = {
        "id": f"20260101-000000-{number:06x}",
        "name": f"tiny-0-{number}",
        "recipe": {"name": "tiny"},
        "commit": "c",
        "dirty": False,
        "tracking_uri": workspace.tracking_uri,
        "status": "FINISHED",
        "started": when,
        "ended": when,
        "stages": stages,
        "closed": sent,
        "opened": sent,
        "run_id": f"{number:032x}",
    }
    made = Record(**values | changes)
    folder = workspace.outbox / "sent" if sent else workspace.outbox
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{made.id}.json").write_text(made.model_dump_json())
    return made


def version(client: MlflowClient, model: str, source: str = "/elsewhere/model", **tags: str) -> str:
    """A registered version with these tags."""
    if not client.search_registered_models(f"name = '{model}'"):
        client.create_registered_model(model)
    return client.create_model_version(model, source, tags=tags).version


def collect(workspace: Workspace, days: float = LIMIT) -> set[str]:
    """Run it; what was removed, by name."""
    found = retention.plan(workspace, days)
    before = {item.path for item in found.remove}
    gone = {item.path for item in retention.remove(workspace, found, days)}
    assert all(not path.exists() for path in gone) and gone <= before
    assert all(item.path.exists() for item in found.keep)
    assert not list(workspace.runs.glob(".gc-*"))
    return {path.name for path in gone}


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
    version(client, "tiny-policy", digest=digest_path(path / "model"))
    aged(path)
    assert collect(workspace) == {"checkpoints"}
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
    before = retention.size(path)
    os.link(path / "model" / "model.safetensors", tmp_path / "registered")
    assert retention.size(path) == before - len("weights 1")


# what stays


def test_the_runs_of_a_registered_version_stay_with_everything_they_were_made_from(
    workspace, client
):
    base, sft, ppo, other = (run_dir(workspace, "sft", 1), None, None, run_dir(workspace, "sft", 9))
    sft = run_dir(workspace, "sft", 2, inputs=[base])
    ppo = run_dir(workspace, "ppo", 3, inputs=[sft])
    version(client, "tiny-policy", digest=digest_path(ppo / "model"))
    assert collect(workspace, days=0) == {other.name}


def test_every_stage_of_the_pipeline_behind_a_version_stays(workspace, client):
    dirs = [
        run_dir(workspace, stage, number)
        for number, stage in enumerate(("validate", "sft", "evaluate"))
    ]
    version(client, "tiny-policy", pipeline_run_id=record(workspace, 1, dirs).run_id)
    assert collect(workspace) == set()


def test_what_only_the_ledger_mentions_stays_though_its_version_was_deleted(workspace, client):
    ppo = run_dir(workspace, "ppo", 1)
    digest = digest_path(ppo / "model")
    number = version(client, "tiny-policy", digest=digest)
    state = {"policy": {"version": number, "digest": digest}, "reward": None}
    version(client, "tiny-ledger", plan=json.dumps({"before": {}, "after": {}, "state": state}))
    client.delete_model_version("tiny-policy", number)
    assert collect(workspace) == set()


def test_a_model_that_a_version_was_compared_with_stays(workspace, client):
    beaten = run_dir(workspace, "ppo", 1)
    version(client, "tiny-policy", digest="0" * 64, compared_with=digest_path(beaten / "model"))
    assert collect(workspace) == set()


def test_a_version_whose_files_lie_in_a_run_keeps_it(workspace, client):
    path = run_dir(workspace, "ppo", 1)
    version(client, "tiny-policy", source=(path / "model").as_uri())
    assert collect(workspace) == set()


def test_a_deleted_version_keeps_nothing(workspace, client):
    path = run_dir(workspace, "ppo", 1)
    client.delete_model_version(
        "tiny-policy", version(client, "tiny-policy", digest=digest_path(path / "model"))
    )
    assert collect(workspace) == {path.name}


def test_versions_beyond_the_first_page_keep_their_runs(workspace, client, monkeypatch):
    paths = [run_dir(workspace, "ppo", number) for number in range(7)]
    for number, path in enumerate(paths):
        version(client, f"m{number}-policy", digest=digest_path(path / "model"))
    asked = MlflowClient.search_registered_models
    monkeypatch.setattr(
        MlflowClient,
        "search_registered_models",
        lambda self, **k: asked(self, **k | {"max_results": 2}),
    )
    assert collect(workspace) == set()


def test_an_unfinished_run_stays_with_its_inputs_for_it_can_be_resumed(workspace):
    sft = run_dir(workspace, "sft", 1)
    run_dir(workspace, "ppo", 2, inputs=[sft], state="unfinished")
    assert collect(workspace, days=0) == set()


def test_a_run_that_is_used_stays_with_the_old_ones_it_was_made_from(workspace):
    sft = run_dir(workspace, "sft", 1)
    run_dir(workspace, "ppo", 2, inputs=[sft], days=1)
    assert collect(workspace) == set()


@pytest.mark.parametrize("changes", [{"sent": False}, {"status": "RUNNING", "ended": None}])
def test_a_run_that_goes_on_or_was_not_forwarded_keeps_its_directories(workspace, changes):
    record(workspace, 1, [run_dir(workspace, "sft", 1)], **changes)
    assert collect(workspace) == set()


@pytest.mark.parametrize(
    ("state", "stays"), [("not run", True), ("failed", True), ("finished", False)]
)
def test_a_sweep_keeps_its_runs_until_it_is_complete(workspace, state, stays):
    path = run_dir(workspace, "sft", 1)
    member = Membership(id="s1", name="s", keys=["seed"], label="seed=1")
    record(workspace, 1, [path], sweep=member)
    sweep = Sweep(
        id="s1",
        name="s",
        recipe="tiny",
        keys=["seed"],
        until="sft",
        tracking_uri="",
        points=[SweepPoint(label="a", values={})],
        rows=[SweepRow(label="a", values={}, state=state)],
    )
    sweep.folder(workspace).mkdir(parents=True)
    (sweep.folder(workspace) / "sweep.json").write_text(sweep.model_dump_json())
    assert collect(workspace) == (set() if stays else {path.name})


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


# when MLflow cannot be asked


def test_nothing_is_removed_while_the_registry_does_not_answer(workspace, monkeypatch, capsys):
    path = run_dir(workspace, "sft", 1)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    assert rlhf_exit_code("gc") == 1
    assert "does not answer" in capsys.readouterr().err and path.exists()


def test_runs_recorded_on_another_server_that_is_down_are_kept(workspace, client):
    there, here = run_dir(workspace, "sft", 1), run_dir(workspace, "sft", 2)
    record(workspace, 1, [there], tracking_uri="http://127.0.0.1:9")
    record(workspace, 2, [here])
    said = []
    found = retention.plan(workspace, LIMIT, say=said.append)
    assert [item.path for item in found.remove] == [here] and "http://127.0.0.1:9" in said[0]


def test_runs_whose_registered_model_is_gone_from_the_store_are_kept(workspace):
    path = run_dir(workspace, "ppo", 1)
    artifact = Artifact(path=path / "model", digest=digest_path(path / "model"))
    lost = Registration(model="tiny-policy", stage="ppo", artifact=artifact, tags={}, version="3")
    record(workspace, 1, [path], registrations=[lost])
    assert collect(workspace) == set()


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
write_atomically(Path(sys.argv[3]) / "result.json", StageResult(stage="sft", digest="d", seconds=1.0).model_dump_json())
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


# any workspace

NODES = st.lists(
    st.tuples(
        st.sampled_from(["finished", "refused", "unfinished"]),
        st.booleans(),
        st.booleans(),
        st.lists(st.integers(0, 7), max_size=3),
    ),
    min_size=1,
    max_size=8,
)


@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(NODES)
def test_whatever_stays_still_has_everything_it_was_made_from(
    tmp_path_factory, empty_store, monkeypatch, nodes
):
    """A graph of directories, each with a state, an age, maybe a registered version, and inputs
    among the earlier ones.
    """
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    home = tmp_path_factory.mktemp("w")
    shutil.copy(empty_store, home / "mlflow.db")
    workspace, paths, safe = Workspace(home), [], set()
    client = MlflowClient(tracking_uri=workspace.tracking_uri)
    for number, (state, young, registered, inputs) in enumerate(nodes):
        chosen = [paths[index % len(paths)] for index in inputs] if paths else []
        path = run_dir(
            workspace, "sft", number, inputs=chosen, state=state, days=1 if young else OLD
        )
        paths.append(path)
        if registered and state == "finished":
            version(client, "m", digest=digest_path(path / "model"))
        if young or state == "unfinished" or (registered and state == "finished"):
            safe.add(path)
    for path in reversed(paths):
        if path in safe:
            spec = StageSpec.model_validate_json((path / "spec.json").read_text())
            safe |= {item.path.parent for item in spec.inputs.values()}
    assert collect(workspace) == {path.name for path in paths if path not in safe}

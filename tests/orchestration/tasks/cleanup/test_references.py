"""A run directory that a version, an alias, a ledger entry or an open run needs is kept."""

import json
import shutil

import pytest
from command_line import rlhf_exit_code
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mlflow import MlflowClient
from old_runs import LIMIT, OLD, collect, record, run_dir, version

from rlhf_core.digest import digest_path
from rlhf_core.rundir import Artifact, StageSpec
from tasks.cleanup import retention
from tasks.records.run_record import Registration
from tasks.records.workspace import Workspace
from tasks.sweeps.sweep import Membership, Sweep, SweepPoint, SweepRow

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
    """Directories with a state, an age, some a registered version, and inputs among the earlier."""
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

"""`rlhf runs rm`: one run goes with what is its own; what is referred to is refused."""

import json

import pytest
from command_line import rlhf_exit_code
from old_runs import OLD, record, run_dir, version

from rlhf_core.digest import digest_path
from rlhf_core.errors import BadInput
from rlhf_core.rundir import Artifact
from tasks.cleanup.single_runs import plan_removal, remove_runs
from tasks.records.run_record import Registration, records


def test_a_run_goes_with_its_own_directories_and_its_runs_in_mlflow(workspace, client, capsys):
    shared, own, other = (
        run_dir(workspace, name, n) for n, name in enumerate(("sft", "ppo", "dpo"))
    )
    ids = [client.create_run("0").info.run_id for _ in range(2)]
    first = record(workspace, 1, [shared, own], run_id=ids[0])
    record(workspace, 2, [shared, other], run_id=ids[1])
    report = workspace.home / "reports" / f"{first.id}-{first.name}" / "report.html"
    report.parent.mkdir(parents=True)
    report.write_text("report")
    assert rlhf_exit_code("runs", "rm", first.name, "--dry-run", "--json") == 0
    planned = json.loads(capsys.readouterr().out)
    assert own.exists() and planned["runs"] == [first.name]
    assert planned["removed"] == [str(own), str(report.parent)]
    assert planned["kept"] == {str(shared): "used by tiny-0-2"}
    assert rlhf_exit_code("runs", "rm", first.name) == 0
    assert f"kept: {shared.name}: used by tiny-0-2" in capsys.readouterr().out
    assert shared.exists() and other.exists() and not own.exists() and not report.parent.exists()
    assert [values["name"] for values in records(workspace)] == ["tiny-0-2"]
    stages = [client.get_run(run_id).info.lifecycle_stage for run_id in ids]
    assert stages == ["deleted", "active"]
    assert rlhf_exit_code("runs", "rm", first.name) == 2


def test_what_a_version_or_an_open_run_needs_is_refused(workspace, client):
    path = run_dir(workspace, "ppo", 1)
    needed = record(workspace, 1, [path])
    version(client, "tiny-policy", pipeline_run_id=needed.run_id)
    with pytest.raises(BadInput, match="tiny-0-1 is not removed: it is named by a registered ver"):
        plan_removal(workspace, [needed])
    going_on = record(workspace, 2, [run_dir(workspace, "sft", 2)], sent=False, status="RUNNING")
    with pytest.raises(BadInput, match=r"a run that goes on, .* wait for it, or run rlhf sync"):
        plan_removal(workspace, [going_on])
    assert path.exists() and len(records(workspace)) == 2


def test_a_run_that_only_reused_a_version_goes_and_the_maker_and_the_named_one_stay(
    workspace, client
):
    made, own = run_dir(workspace, "ppo", 1), run_dir(workspace, "evaluate", 2)
    digest = digest_path(made / "model")
    item = Registration(
        model="tiny-policy",
        stage="ppo",
        artifact=Artifact(path=made / "model", digest=digest),
        tags={},
        version="1",
    )
    maker, between, last = (
        record(workspace, n, [made, own] if n == 2 else [made], days=OLD - n, registrations=[item])
        for n in (1, 2, 3)
    )
    for later in (between, last):
        later.stages[0].cached = True
        file = workspace.outbox / "sent" / f"{later.id}.json"
        file.write_text(later.model_dump_json(), encoding="utf-8")
    version(client, "tiny-policy", digest=digest, pipeline_run_id=last.run_id)
    with pytest.raises(BadInput, match="tiny-0-1 is not removed: it is what made a registered ver"):
        plan_removal(workspace, [maker])
    with pytest.raises(BadInput, match="tiny-0-3 is not removed: it is named by a registered ver"):
        plan_removal(workspace, [between, last])
    plan = plan_removal(workspace, [between])
    assert plan.folders == [own] and list(plan.kept) == [made]
    resumed = between.model_copy(deep=True)
    resumed.stages[0].started = 0  # before the result was there
    (workspace.outbox / "sent" / f"{resumed.id}.json").write_text(resumed.model_dump_json())
    with pytest.raises(BadInput, match="tiny-0-2 is not removed: it is what made"):
        plan_removal(workspace, [resumed])


def test_directories_with_registered_bytes_or_that_others_took_as_input_stay(workspace, client):
    base, tuned = run_dir(workspace, "sft", 1), run_dir(workspace, "sft", 2)
    other = run_dir(workspace, "ppo", 3, inputs=[base])
    one = record(workspace, 1, [base, tuned], run_id=None)
    record(workspace, 2, [other], run_id=None)
    version(client, "tiny-policy", digest=digest_path(tuned / "model"))
    plan = plan_removal(workspace, [one])
    assert plan.folders == [] and plan.kept == {
        base: f"input of {other.name}",
        tuned: "a registered version or ledger entry with these bytes",
    }
    remove_runs(workspace, plan)
    assert base.exists() and tuned.exists() and len(records(workspace)) == 1

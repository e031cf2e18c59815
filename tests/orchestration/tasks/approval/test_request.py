"""Approval by a person on real Prefect servers.

A small flow only asks; the answers come from other processes and from the page's API.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from command_line import RLHF
from mlflow import MlflowClient
from recipes import tiny_recipe

# before anything else of Prefect: it sets what Prefect reads when it is imported
from flows.pipeline import flow, runtime, write_page
from flows.platform.pages import free_port
from rlhf_core.config import Recipe
from rlhf_core.errors import BadInput, GateRefused, RLHFError
from rlhf_core.gates.decide import Decision
from rlhf_core.rundir import Artifact, StageResult
from rlhf_core.stage_catalogue import EVALUATE
from tasks.approval import decisions
from tasks.approval.decisions import Answer
from tasks.approval.request import approval
from tasks.records import events
from tasks.records.approval_record import VersionApproval
from tasks.records.run_record import Record, record_lock, records
from tasks.records.workspace import Workspace
from tasks.registry.packaging import local_folder, read_approval
from tasks.run_context import RunContext, StageOutput
from tasks.run_result import rows_of
from tasks.tracking.tracker import tracking

YES = {"approve": True, "name": "Pat Page", "comment": "reads well"}
EVALUATED = StageResult(
    stage="evaluate",
    digest="e",
    seconds=1.0,
    metrics={"eval/win_rate": 0.8, "eval/prompts": 100.0},
    intervals={"eval/win_rate": (0.71, 0.87)},
    counts={"eval/win_rate": 100},
)
TRAINED = StageResult(stage="ppo", digest="t", seconds=1.0, metrics={"ppo/kl_per_response": 4.0})


def gate_record(**changes) -> Decision:
    """A gate that passed; every run decides it anew, so that time and commit differ."""
    values = {
        "stage": "evaluate",
        "gate": "win_rate",
        "metric": "eval/win_rate",
        "value": 0.8,
        "n": 100,
        "interval": (0.71, 0.87),
        "bound": "more than",
        "threshold": 0.5,
        "passed": True,
        "reason": "eval/win_rate is 0.8, required more than 0.5",
        "decided_at": str(time.time()),
        "commit": str(time.time()),
    }
    return Decision.model_validate(values | changes)


def approval_recipe(hours: float) -> Recipe:
    """Return a recipe whose promotion needs an approval within `hours`."""
    approval = {"required": True, "timeout_hours": hours}
    return tiny_recipe(registry={"name": "tiny", "approval": approval})


@flow(name="asks", flow_run_name="{name}", persist_result=False)
def asks(name: str, recipe: Recipe, policy: Path, decisions: list[Decision]) -> Record:
    """Do what the pipeline does between the last gate and promote, with its record."""
    workspace = Workspace.here()
    record = Record.new(workspace, recipe, runtime.flow_run.name)
    with record_lock(workspace, record.id), tracking(workspace, record) as tracker:
        record.save(workspace)
        tracker.flush()
        tracker.stage_started("ppo", workspace.runs / "ppo-t", cached=False)
        tracker.stage_ended("ppo", status="FINISHED", decisions=decisions)
        results = {"evaluate": EVALUATED, "ppo": TRAINED}
        evaluation = StageOutput(EVALUATE, {}, {"policy": Artifact.of(policy)}, results, None)
        try:
            approval(RunContext(recipe, workspace, record.id), evaluation, write_page)
        except BaseException as error:
            tracker.end("FAILED" if isinstance(error, Exception) else "KILLED", str(error))
            raise
        tracker.end("FINISHED")
    return record


@pytest.fixture
def run(home, tmp_path):
    """run(name, hours, **changes of the gate record): the small flow on one policy."""
    policy = tmp_path / "policy"
    policy.mkdir()
    (policy / "weights").write_text("w")
    return lambda name, hours=0.1, **changes: asks(
        name, approval_recipe(hours), policy, [gate_record(**changes)]
    )


@pytest.fixture
def when_asked():
    """when_asked(action): act in a thread as soon as a run asks; an error there fails the test."""
    threads, errors, asked = [], [], []

    def guarded(action) -> None:
        try:
            action()
        except BaseException as error:
            errors.append(error)

    def start(action) -> list:
        def listen(event) -> None:
            if isinstance(event, events.ApprovalAsked):
                asked.append(event)
                threads.append(threading.Thread(target=guarded, args=(action,)))
                threads[-1].start()

        ends.append(events.subscribe(listen))
        return asked

    ends: list = []
    yield start
    for end in ends:
        end()
    for thread in threads:
        thread.join(60)
    assert not errors, errors


def approve(*words: str) -> subprocess.CompletedProcess:
    return subprocess.run([*RLHF, "approve", *words], capture_output=True, text=True, timeout=100)


def ephemeral_api() -> str:
    from prefect import get_client

    with get_client(sync_client=True) as client:
        return str(client.api_url).rstrip("/")


def posted(url: str, values: dict) -> Any:
    """Return the server's answer; ask again while SQLite is locked, as Prefect's client does."""
    for _ in range(20):
        reply = httpx.post(url, json=values, timeout=30)
        if reply.status_code < 500:
            break
        time.sleep(0.5)
    return reply.raise_for_status().json()


def paused_run(api: str) -> dict:
    """The run that waits, as Prefect's page finds it."""
    wanted = {"flow_runs": {"state": {"type": {"any_": ["PAUSED"]}}}, "sort": "START_TIME_DESC"}
    return posted(f"{api}/flow_runs/filter", wanted)[0]


def resume(api: str, run_id: str, values: dict | None) -> dict:
    """Send what the page's form sends."""
    return posted(f"{api}/flow_runs/{run_id}/resume", {"run_input": values})


def artifact(api: str) -> dict:
    return httpx.get(f"{api}/artifacts/approval/latest", timeout=30).json()


def on_the_version(record: Record) -> VersionApproval:
    """Return the approval in the files of the registered policy."""
    version = MlflowClient(tracking_uri=record.tracking_uri).get_model_version_by_alias(
        "tiny-policy", "candidate"
    )
    return read_approval(local_folder(version.source))


def latest(home: Path) -> Record:
    return Record.model_validate(records(Workspace(home))[-1])


def assert_shows_links_metrics_gates_and_command(shown: str, link: str) -> None:
    """Check the text of the artifact of the run asks-1 in Prefect."""
    assert f"[report]({link}/artifacts/report.html), [MLflow]({link}), [tiny-policy 1](" in shown
    assert "/#/models/tiny-policy/versions/1)" in shown
    assert "| eval/win_rate | 0.8 | 0.71 to 0.87 | 100 | share |" in shown
    assert "| evaluate.win_rate | **passed** | 0.8 | more than 0.5 |" in shown
    assert "rlhf approve asks-1" in shown


# the two doors


@pytest.mark.slow
def test_an_approval_from_another_process_is_recorded_everywhere_and_counts_again(
    run, home, when_asked
):
    done, before = [], []

    def look_and_approve() -> None:
        record = latest(home)
        page = MlflowClient(tracking_uri=record.tracking_uri).download_artifacts(
            record.run_id, "report.html"
        )
        before.extend([Path(page).read_text(), on_the_version(record)])
        done.append(
            approve("asks-1", "--by", "Ann", "--comment", "short and to the point", "--json")
        )

    asked = when_asked(look_and_approve)
    told = run("asks-1")
    assert [(row.name, row.state) for row in rows_of(told)][-1] == ("approval", "done")
    assert told.approval.by == "Ann"
    record = latest(home)
    assert (
        record.approval == told.approval
        and record.approval.door == "rlhf approve"
        and record.approval.decided_at
    )
    client = MlflowClient(tracking_uri=record.tracking_uri)
    assert (
        client.get_run(record.run_id).data.tags["approval"]
        == "approved by Ann: short and to the point"
    )
    assert "waiting for approval until" in before[0]
    assert before[1].required and before[1].record.state == "waiting"
    assert on_the_version(record) == VersionApproval(required=True, record=record.approval)
    stored = json.loads(Path(client.download_artifacts(record.run_id, "approval.json")).read_text())
    assert stored["by"] == "Ann" and stored["state"] == "approved"
    assert_shows_links_metrics_gates_and_command(artifact(ephemeral_api())["data"], asked[0].link)

    again = run("asks-2")  # same policy, same gate records: nobody is asked
    assert len(asked) == 1 and rows_of(again)[-1].seconds == 0 and again.approval.run == "asks-1"
    assert json.loads(done[0].stdout)["by"] == "Ann" and done[0].returncode == 0

    with pytest.raises(GateRefused, match=r"no decision within 0\.0005 hours"):
        run("asks-3", hours=0.0005, threshold=0.6)  # other gate records: asked anew
    assert len(asked) == 2 and latest(home).approval.state == "expired"
    with pytest.raises(GateRefused, match="no decision"):  # nobody decided, so the question is open
        run("asks-4", hours=0.0005, threshold=0.6)


def test_a_rejection_is_a_refusal_with_its_reason_also_for_the_next_run(run, home, when_asked):
    def reject() -> None:
        silent = approve("latest", "--reject", "--by", "Ann")
        assert silent.returncode == 2 and "--comment" in silent.stderr
        done = approve("latest", "--reject", "--by", "Ann", "--comment", "it praises\ntoo much")
        assert (
            done.returncode == 0
            and done.stdout == "asks-1: not approved by Ann: it praises too much\n"
        ), done.stderr

    asked = when_asked(reject)
    with pytest.raises(GateRefused, match=r"^not approved by Ann: it praises too much$") as refused:
        run("asks-1")
    assert refused.value.exit_code == 3 and latest(home).status == "FAILED"
    assert (
        on_the_version(latest(home)).record.sentence == "not approved by Ann: it praises too much"
    )
    with pytest.raises(
        GateRefused,
        match=r"not approved by Ann.*\(decided 20..-..-.. on the same evidence, asks-1\)",
    ):
        run("asks-2")
    assert len(asked) == 1
    with pytest.raises(BadInput, match="asks-2 is decided already: not approved by Ann"):
        decisions.submit(Workspace(home), latest(home), Answer(approve=True, by="Bob"))


def test_the_form_on_prefects_page_decides_and_must_be_filled_in(run, home, when_asked):
    def answer() -> None:
        api = ephemeral_api()
        waiting = paused_run(api)
        keys = waiting["state"]["state_details"]["run_input_keyset"]
        form, text = (
            httpx.get(f"{api}/flow_runs/{waiting['id']}/input/{keys[k]}").json()
            for k in ("schema", "description")
        )
        assert set(form["properties"]) == {"approve", "name", "comment"} and form["required"] == [
            "approve",
            "name",
        ]
        assert "### Gates" in text
        for incomplete in (
            None,
            {},
            {"approve": True},
            {"approve": True, "name": ""},
            {"approve": False, "name": "Pat"},
        ):
            assert resume(api, waiting["id"], incomplete)["status"] == "REJECT"
        assert resume(api, waiting["id"], YES)["status"] == "ACCEPT"

    when_asked(answer)
    told = run("asks-1")
    assert (told.approval.by, told.approval.comment, told.approval.door) == (
        "Pat Page",
        "reads well",
        "Prefect",
    )


def test_a_rejection_on_the_page_is_a_refusal_with_its_reason(run, when_asked):
    no = {"approve": False, "name": "Pat", "comment": "too long"}
    when_asked(lambda: resume(ephemeral_api(), paused_run(ephemeral_api())["id"], no))
    with pytest.raises(GateRefused, match=r"^not approved by Pat: too long$"):
        run("asks-1")


@pytest.mark.parametrize(
    ("state", "error", "says"),
    [
        ("RUNNING", GateRefused, "resumed in Prefect without an answer"),
        ("CANCELLED", RLHFError, "ended in Prefect"),
    ],
)
def test_a_run_that_prefect_lets_go_or_ends_without_an_answer_is_not_approved(
    run, home, when_asked, state, error, says
):
    def act() -> None:
        api = ephemeral_api()
        url = f"{api}/flow_runs/{paused_run(api)['id']}/set_state"
        assert posted(url, {"state": {"type": state}})["status"] == "ACCEPT"

    when_asked(act)
    with pytest.raises(error, match=says):
        run("asks-1")
    assert not list((home / "approvals").glob("*.json"))


# several at once


@pytest.mark.parametrize("page_after", [0.3, 3.0])
def test_of_several_answers_at_once_the_first_wins_and_the_others_are_refused(
    run, home, when_asked, page_after
):
    answers, page = [], []

    def all_at_once() -> None:
        words = [["--by", "Ann"], ["--by", "Bob", "--reject", "--comment", "no"], ["--by", "Cid"]]
        processes = [
            subprocess.Popen(
                [*RLHF, "approve", "asks-1", *w],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for w in words
        ]
        api, run_id = ephemeral_api(), paused_run(ephemeral_api())["id"]
        time.sleep(page_after)
        page.append(resume(api, run_id, YES)["status"])
        answers.extend(
            (p.returncode, *out) for p in processes for out in [p.communicate(timeout=90)]
        )

    when_asked(all_at_once)
    with contextlib.suppress(GateRefused):
        run("asks-1")
    for _ in range(600):
        if len(answers) == 3:
            break
        time.sleep(0.1)
    decided = latest(home).approval
    winners = [code for code, out, err in answers if code == 0]
    assert (page[0], len(winners)) == (
        ("ACCEPT", 0) if decided.door == "Prefect" else ("ABORT", 1)
    ), answers
    losers = [err for code, out, err in answers if code]
    assert (
        all(f"decided already: {decided.sentence}" in err for err in losers)
        and len(losers) + len(winners) == 3
    )
    assert not list((home / "approvals").glob("*.answer"))


# Prefect's server in another process


class PrefectServer:
    """`prefect server start` on this Prefect home, as `rlhf ui` starts it."""

    def __init__(self):
        self.port = free_port()
        self.api = f"http://127.0.0.1:{self.port}/api"

    def start(self) -> None:
        words = [
            "server",
            "start",
            "--host",
            "127.0.0.1",
            "--port",
            str(self.port),
            "--no-services",
        ]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "prefect", *words], stdout=subprocess.DEVNULL
        )
        for _ in range(600):
            assert self.process.poll() is None
            with contextlib.suppress(httpx.HTTPError):
                if httpx.get(f"{self.api}/health", timeout=2).status_code == 200:
                    return
            time.sleep(0.2)
        raise AssertionError("the server did not start")

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(30)


@pytest.fixture
def prefect_server():
    server = PrefectServer()
    server.start()
    yield server
    server.stop()


def test_a_run_without_a_server_is_answered_on_the_page_that_rlhf_ui_serves(
    run, when_asked, prefect_server
):
    api = prefect_server.api
    when_asked(lambda: resume(api, paused_run(api)["id"], YES))
    assert ephemeral_api() != api
    assert run("asks-1").approval.by == "Pat Page"


# in the pipeline


@pytest.fixture
def pipeline_recipe(recipe_file) -> Path:
    """The recipe, with an approval before promotion."""
    with recipe_file.open("a") as file:
        file.write("registry.approval.required = true\n")
    return recipe_file


@pytest.fixture
def started(pipeline_recipe, command, prefect_server, tmp_path):
    """started(): `rlhf run` on a Prefect server, once it waits for approval; its output file."""
    code = (
        "import sys; from tasks.execution import stage_process;"
        f" stage_process.COMMAND = {command!r}; from flows.cli.app import run; run()"
    )
    running: list[subprocess.Popen] = []

    def start() -> tuple[subprocess.Popen, Path]:
        said = tmp_path / f"run-{len(running)}.txt"
        environment = os.environ | {"PREFECT_API_URL": prefect_server.api}
        words = [sys.executable, "-c", code, "run", str(pipeline_recipe)]
        with said.open("w") as output:
            running.append(
                subprocess.Popen(
                    words, stdout=output, stderr=output, env=environment, start_new_session=True
                )
            )
        for _ in range(1200):
            if "waiting for a person" in said.read_text():
                return running[-1], said
            assert running[-1].poll() is None, said.read_text()
            time.sleep(0.1)
        raise AssertionError(said.read_text())

    yield start
    for stage_process in running:
        if stage_process.poll() is None:
            stage_process.kill()
            stage_process.wait()


def children(pid: int) -> list[str]:
    found = subprocess.run(
        ["ps", "-o", "args=", "--ppid", str(pid)], capture_output=True, text=True
    ).stdout
    return found.splitlines()


@pytest.mark.slow
def test_a_stopped_run_asks_again_and_what_the_page_approves_is_registered_with_its_approval(
    started, home, prefect_server
):
    api = prefect_server.api
    for stop in (signal.SIGINT, signal.SIGTERM):
        stage_process, _ = started()
        assert children(stage_process.pid) == []  # no stage process waits with it
        assert paused_run(api)["state"]["name"] == "Paused"
        stage_process.send_signal(stop)
        assert stage_process.wait(60) != 0
        assert latest(home).status == "KILLED"
        refused = approve("latest")
        assert (
            refused.returncode == 2
            and "not waiting for approval any more: it was stopped" in refused.stderr
        )

    stage_process, said = started()
    run = paused_run(api)
    assert f"{api.removesuffix('/api')}/runs/flow-run/{run['id']}" in said.read_text()
    assert (
        "ppo: already done" in said.read_text()
        and f"rlhf approve {run['name']}" in said.read_text()
    )
    assert "| evaluate.win_rate |" in artifact(api)["data"]
    prefect_server.stop()  # the run outlives its server
    time.sleep(8)
    prefect_server.start()
    assert resume(api, run["id"], YES)["status"] == "ACCEPT"
    stage_process.wait(120)
    record = latest(home)
    (policy,) = MlflowClient(tracking_uri=record.tracking_uri).search_model_versions(
        "name = 'tiny-policy'"
    )
    assert json.loads(policy.tags["approval"])["by"] == "Pat Page"
    assert record.approval.state == "approved" and "approval: done" in said.read_text()


def test_a_refused_gate_asks_nobody(pipeline_recipe, plan, home, rlhf, when_asked):
    plan(evaluate={"metrics": {"eval/kl_per_response": 900.0}})
    asked = when_asked(lambda: None)
    code, _, err = rlhf("run", pipeline_recipe)
    assert (
        code == 3 and "evaluate is refused" in err and asked == [] and latest(home).approval is None
    )

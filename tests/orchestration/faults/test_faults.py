"""Do to real processes what goes wrong in operation.

After each fault `Site.sound` holds and a message says what happened.
"""

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rlhf_core.rundir import read_metrics
from tasks.records.run_record import records
from tasks.records.workspace import Workspace

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
RUNS = Path(__file__).resolve().parents[2] / "support" / "runs"
ALL = ["validate", "sft", "reward", "ppo", "evaluate"]
HOLD = {"hold": True}


def settled(process: subprocess.Popen) -> tuple[dict, str]:
    """Wait for a run by hand to end well; return its JSON document and standard error."""
    out, err = process.communicate(timeout=400)
    assert process.returncode == 0, err[-3000:]
    return json.loads(out), err


def test_a_killed_worker_loses_nothing_and_the_next_one_takes_new_runs(site):
    site.plan(ppo=HOLD)
    site.deployed("worker", "seed=101")
    site.in_stage("ppo")
    site.kill("worker")
    site.up()
    site.go()
    assert site.ended("worker", 1) == ["Completed"], site.states("worker")
    site.start("rlhf/worker")
    assert site.ended("worker", 2) == ["Completed", "Completed"], site.states("worker")
    site.sound(ALL)


def test_a_killed_stage_is_tried_again_and_says_so(site):
    site.plan(ppo=HOLD)
    run = site.by_hand("registry.name=stage", "seed=103")
    site.in_stage("ppo")
    site.stage_process("ppo").kill()
    site.go()
    document, told = settled(run)
    assert document["promotion"]["promoted"] and "stage ppo was ended by signal 9" in told
    site.sound([*ALL, "ppo"])


def test_mlflow_may_be_down_while_models_train(site):
    site.plan(sft={"seconds": 6}, ppo=HOLD)
    run = site.by_hand("registry.name=mlflow", "seed=105")
    site.in_stage("sft")
    site.kill("mlflow")
    site.in_stage("ppo")
    site.up()
    site.go()
    assert settled(run)[0]["promotion"]["promoted"]
    site.sound(ALL)


def test_mlflow_that_stays_down_keeps_the_run_from_promoting_and_loses_nothing(site):
    site.plan(ppo=HOLD)
    run = site.by_hand("registry.name=gone", "seed=106")
    site.in_stage("ppo")
    site.kill("mlflow")
    site.go()
    _, told = run.communicate(timeout=400)
    assert (
        run.returncode == 1
        and "Everything trained is kept: run the recipe again when MLflow answers" in told
    )
    site.up()
    assert settled(site.by_hand("registry.name=gone", "seed=106"))[0]["promotion"]["promoted"]
    site.sound(ALL)


def test_postgresql_may_be_restarted(site):
    site.plan(sft={"seconds": 9}, ppo={"seconds": 9})
    run = site.deployed("postgres", "seed=107")
    for stage, mode in (("sft", "fast"), ("ppo", "immediate")):
        site.in_stage(stage)
        site.database.stop(mode)
        time.sleep(4)
        site.database.start()
    assert site.ended("postgres", 1) == ["Completed"], site.states("postgres")
    assert [item["id"] for item in site.runs("postgres")] == [run]
    site.sound(ALL)


def test_a_preempted_node_ends_all_its_processes_and_the_run_resumes_elsewhere(site):
    site.plan(ppo=HOLD)
    site.deployed("node", "seed=108")
    site.in_stage("ppo")
    site.tell_runs(signal.SIGTERM)  # as a node does before it goes away
    site.wait(lambda: not site.of_runs(), 40)
    assert site.ended("node", 1) == ["Crashed"], site.states("node")
    assert "status code -15" in site.states("node")[0][1]
    assert "The process was asked to end (Ctrl-C or SIGTERM" in site.rlhf("status", "--json")
    site.go()
    site.start("rlhf/node")
    assert site.ended("node", 2) == ["Completed", "Crashed"], site.states("node")
    site.sound([*ALL, "ppo"])


def test_the_same_pipeline_started_twice_trains_once_and_promotes_once(site):
    site.plan(sft={"seconds": 3}, ppo={"seconds": 3})
    both = [site.by_hand("registry.name=twins", "seed=109") for _ in range(2)]
    reasons = [settled(run)[0]["promotion"]["reason"] for run in both]
    assert sorted("champion already" in reason for reason in reasons) == [False, True], reasons
    again, _ = settled(site.by_hand("registry.name=twins", "seed=109"))
    assert again["promotion"]["version"] == "1"
    site.sound(ALL)


@pytest.fixture
def clock(tmp_path):
    """Set the wall clock of running processes off by some seconds: a function, and variables."""
    library, file = tmp_path / "clock.so", tmp_path / "shift"
    subprocess.run(
        ["gcc", "-shared", "-fPIC", "-o", str(library), str(RUNS / "clock.c"), "-ldl"], check=True
    )
    variables = {"LD_PRELOAD": str(library), "CLOCK_FILE": str(file)}

    def move(seconds: int) -> None:
        file.write_text(str(seconds))

    move(-86400)
    asked = [sys.executable, "-c", "import time; print(time.time())"]
    seen = float(
        subprocess.run(asked, env=os.environ | variables, capture_output=True, check=True).stdout
    )
    assert -86500 < seen - time.time() < -86300
    move(0)
    return move, variables


@pytest.mark.parametrize("seconds", [-86400, 86400], ids=["back", "forth"])
def test_a_clock_that_is_moved_by_a_day_in_the_middle_changes_nothing(site, clock, seconds):
    move, variables = clock
    site.plan(sft=HOLD)
    run = site.by_hand(
        f"registry.name=clock{seconds > 0:d}", f"seed={110 + (seconds > 0)}", **variables
    )
    site.in_stage("sft")
    move(seconds)
    site.go()
    document, _ = settled(run)
    assert document["promotion"]["promoted"]
    assert site.rlhf("reap").startswith("crashed: none")
    site.sound(ALL)
    assert all(stage["seconds"] < 600 for stage in document["stages"])


def test_two_workers_share_one_device_in_turn(site):
    site.plan(**{stage: {"seconds": 1.5} for stage in ALL})
    second = site.environment | {"PREFECT_API_URL": site.api, "MLFLOW_TRACKING_URI": site.mlflow}
    words = [
        sys.executable,
        "-m",
        "prefect",
        "worker",
        "start",
        "--pool",
        "rlhf",
        "--type",
        "process",
        "--name",
        "second",
    ]
    worker = subprocess.Popen(
        words, env=second, cwd=site.home, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        site.wait(
            lambda: (
                "second" in [item["name"] for item in site.post("work_pools/rlhf/workers/filter")]
            )
        )
        for number, name in enumerate(("left", "right")):
            site.deployed(name, f"seed={120 + number}")
        for name in ("left", "right"):
            assert site.ended(name, 1) == ["Completed"], site.states(name)
    finally:
        worker.terminate()
        worker.wait(60)
    site.sound([*ALL, *ALL])
    runs = [folder for folder in (site.home / "runs").glob("*-*") if _seed(folder) in (120, 121)]
    times = sorted(
        (read_metrics(folder / "metrics.jsonl")[0]["time"], _end(folder)) for folder in runs
    )
    assert len(times) == 10 and all(
        end <= start for (_, end), (start, _) in itertools.pairwise(times)
    )


def _seed(folder: Path) -> int:
    return json.loads((folder / "spec.json").read_text())["seed"]


def _end(folder: Path) -> float:
    return (folder / "result.json").stat().st_mtime


def test_prefects_server_may_be_down_for_minutes(site):
    """The stage ends meanwhile, and more than three heartbeats are missed."""
    site.plan(ppo=HOLD)
    run = site.deployed("prefect", "seed=104")
    site.in_stage("ppo")
    site.kill("prefect")
    time.sleep(80)
    site.go()
    time.sleep(20)
    site.up()
    site.wait(lambda: "Completed" in dict(site.states("prefect")))
    assert [item["id"] for item in site.runs("prefect")] == [run]
    site.sound(ALL)


@pytest.mark.parametrize(
    ("plan", "end"),
    [({}, "Completed"), ({"reward": {"metrics": {"reward/accuracy": 0.5}}}, "Refused")],
    ids=["well", "refused"],
)
def test_a_run_that_lives_through_an_outage_ends_in_its_own_state(site, plan, end):
    """Once the server is back it marks the run as crashed, and later nothing says so any more.

    The run is stopped until then: a heartbeat that arrives first would keep the mark away. With the
    mark the server takes the deployment's slot, whose next renewal is refused after 225 s.
    """
    name = f"outage-{end.lower()}"
    log = site.home / "platform" / "worker.log"
    before = len(log.read_text())
    site.plan(sft=HOLD, **plan)
    run = site.deployed(name, f"seed={130 + len(plan)}")
    site.in_stage("sft")
    site.kill("prefect")
    time.sleep(100)
    site.tell_runs(signal.SIGSTOP)
    site.up()
    site.wait(lambda: "Crashed" in dict(site.states(name)), 120)
    site.tell_runs(signal.SIGCONT)
    assert site.of_runs()
    assert site.rlhf("reap").startswith("crashed: none")
    site.wait(lambda: "lease renewal failed" in log.read_text()[before:], 240)
    site.go()
    site.wait(lambda: end in dict(site.states(name)))
    assert [item["id"] for item in site.runs(name)] == [run]
    site.wait(lambda: not site.of_runs(), 60)
    time.sleep(10)
    assert list(dict(site.states(name))) == [end]


def test_a_machine_that_goes_away_in_ppo_resumes_where_it_was(site):
    """The worker, the flow run and the stage die at once, and none can report it."""
    site.plan(ppo=HOLD)
    site.deployed("machine", "seed=102")
    site.in_stage("ppo")
    site.kill("worker")
    site.tell_runs(signal.SIGKILL)
    site.wait(lambda: not site.of_runs(), 30)
    (left,) = site.runs("machine")
    assert left["state"]["type"] == "RUNNING"  # nobody has told
    site.up()
    site.go()
    _, again, _ = site.rlhf("reap", "--again").splitlines()
    assert again.startswith("to run again: ") and left["name"] in again
    assert site.ended("machine", 1) == ["Completed"], site.states("machine")
    site.sound([*ALL, "ppo"])
    first = next(
        record for record in records(Workspace(site.home)) if record["flow_run_id"] == left["id"]
    )
    assert (
        first["status"] == "KILLED"
        and "The process that ran this pipeline was killed" in first["error"]
    )

"""What goes wrong in operation, done to real processes. After each: `Site.sound`, and a message that says what happened."""

import json
import subprocess

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
ALL = ["validate", "sft", "reward", "ppo", "evaluate"]
HOLD = {"hold": True}


def settled(process: subprocess.Popen) -> tuple[dict, str]:
    """The JSON document of a run by hand that ends well, and what it told its user."""
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
    assert run.returncode == 1 and "Everything trained is kept: run the recipe again when MLflow answers" in told
    site.up()
    assert settled(site.by_hand("registry.name=gone", "seed=106"))[0]["promotion"]["promoted"]
    site.sound(ALL)

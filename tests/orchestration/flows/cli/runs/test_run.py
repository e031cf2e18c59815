"""`rlhf run`: whole runs on the small stage program, refusals, Ctrl-C."""

import json
import os
import signal
import threading

from tasks.records import events


def test_a_run_ends_with_its_table_the_promotion_and_its_report(rlhf, recipe_file, home):
    code, out, err = rlhf("run", recipe_file)
    assert code == 0, err
    assert "sft: done" in err and "reward: started" in err
    assert (
        "Promotion: promoted" in out
        and "accuracy 0.8" in out
        and "gate passed" in out
        and "/runs/" in out
    )
    (page,) = (home / "reports").glob("*/report.html")
    assert f"Report: {page}" in out.replace("\n", "")  # a long path is folded
    code, out, _ = rlhf("run", recipe_file, "--json")
    values = json.loads(out)
    assert code == 0 and values["state"] == "finished" and values["promotion"]["promoted"] is True
    stages = {stage["stage"]: stage for stage in values["stages"]}
    assert all(stages[name]["cached"] for name in ("validate", "sft", "reward", "ppo", "evaluate"))
    assert stages["reward"]["value"] == 0.8 and stages["reward"]["mlflow"]
    (again,) = {*(home / "reports").glob("*/report.html")} - {page}
    assert values["report_page"] == str(again)
    code, out, _ = rlhf("status", "--json")
    assert [run["state"] for run in json.loads(out)] == ["finished", "finished"]


def test_a_refused_gate_is_exit_3_with_its_sentence(rlhf, recipe_file, plan):
    plan(reward={"metrics": {"reward/accuracy": 0.61}})
    code, out, err = rlhf("run", recipe_file)
    assert code == 3 and "Traceback" not in err
    sentence = "reward/accuracy is 0.61, required at least 0.7"
    assert f"rlhf: a gate refused: reward is refused: {sentence}" in err and sentence in out
    assert "ppo" not in out
    code, out, _ = rlhf("run", recipe_file, "--json")
    values = json.loads(out)
    assert (
        code == 3
        and values["state"] == "refused"
        and values["exit_code"] == 3
        and sentence in values["error"]
    )
    latest, _ = json.loads(rlhf("status", "--json")[1])
    assert latest["state"] == "refused" and sentence in latest["reason"]
    assert [stage["state"] for stage in latest["stages"]] == ["finished", "finished", "refused"]
    assert "refused" in rlhf("status")[1]


def test_ctrl_c_ends_the_run_without_a_traceback_and_the_next_run_goes_on(rlhf, recipe_file, plan):
    plan(sft={"seconds": 60})

    def interrupt(event) -> None:
        if isinstance(event, events.StageStarted) and event.stage == "sft":
            threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()

    end = events.subscribe(interrupt)
    code, _, err = rlhf("run", recipe_file, "--until", "sft")
    end()
    assert code == 130 and "the same command goes on" in err and "Traceback" not in err
    assert json.loads(rlhf("status", "--json")[1])[0]["state"] == "killed"
    plan()
    code, _, err = rlhf("run", recipe_file, "--until", "sft")
    assert code == 0 and "validate: already done" in err and "sft: done" in err


def test_data_that_is_not_there_is_exit_2(rlhf, recipe_file):
    code, _, err = rlhf("run", recipe_file, "--set", "data.comparisons=nosuch.jsonl")
    assert code == 2 and "nosuch.jsonl" in err and "Traceback" not in err

"""The command line: exit codes, messages, imports, and whole runs on the small stage program."""

import json
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from command_line import RLHF

from flows.cli import app
from flows.platform.pages import free_port
from rlhf_core.engine.bootstrap import keep_extensions_here
from tasks.records import events
from tasks.records.run_record import Record, record_lock
from tasks.records.workspace import Workspace

HEAVY = (
    "torch",
    "prefect",
    "mlflow",
    "transformers",
    "vllm",
    "deepspeed",
    "datasets",
    "matplotlib",
    "pandas",
)
LAZY = {name: line for commands in app.COMMANDS.values() for name, line in commands.items()}


# help and imports


def test_help_imports_nothing_heavy_and_is_quick():
    code = f"""
import sys, flows.cli.app
try:
    flows.cli.app.main(["--help"])
except SystemExit:
    print([name for name in {HEAVY} if name in sys.modules])
"""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.stdout.splitlines()[-1] == "[]"
    assert (
        after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 0.5
    )  # whatever else runs on the machine


def test_recipes_are_listed_with_what_they_do(rlhf):
    code, out, _ = rlhf("recipes")
    assert code == 0 and "quickstart" in out and "smollm2" in out
    assert all(row["description"] for row in json.loads(rlhf("recipes", "--json")[1]))


@pytest.mark.parametrize("name", LAZY)
def test_help_of_all_commands_says_the_first_line_of_each_command(name):
    command = app.load_command(name)
    assert command.help.split("\n\n")[0] == LAZY[name]


def test_help_of_a_command_imports_no_other_command():
    code = """
import contextlib, io, sys
from flows.cli import app
modules = {
    f"flows.cli.{panel}.{name.replace('-', '_')}": name
    for panel, commands in app.COMMANDS.items()
    for name in commands
}
for name in modules.values():
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.suppress(SystemExit):
        app.main([name, "--help"])
    assert f" {name} [OPTIONS]" in out.getvalue()
    loaded = modules.keys() & sys.modules.keys()
    print(name, *(modules[module] for module in loaded))
    for module in loaded:
        del sys.modules[module]
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [f"{name} {name}" for name in LAZY]


def completed(*words: str) -> list[str]:
    """What bash is offered for the last of the words."""
    given = {
        "_RLHF_COMPLETE": "complete_bash",
        "COMP_WORDS": " ".join(("rlhf", *words)),
        "COMP_CWORD": str(len(words)),
    }
    code = "from flows.cli.app import app; app(prog_name='rlhf')"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=os.environ | given
    )
    return done.stdout.split()


def test_the_shell_completes_commands_recipes_stages_and_options():
    assert completed("re") == ["reward-report", "reap", "recipes"]
    assert completed("run", "quickstart") == ["quickstart", "quickstart-dpo"]
    assert completed("sweep", "smo") == ["smollm2"]
    assert completed("run", "quickstart", "--until", "p") == ["prepare", "ppo", "promote"]
    assert "--print-launch" in completed("run", "--")


# bad input


@pytest.mark.parametrize("command", ["run", "validate"])
@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["nosuch"], ["no recipe 'nosuch'", "quickstart", ".toml"]),
        (["quickstart", "--set", "ppo.bta=1"], ["ppo.bta"]),
        (["quickstart", "--set", "ppo.beta=abc"], ["ppo.beta", "'abc'", "number"]),
        (["quickstart", "--set", "ppo.steps=0"], ["ppo.steps", "greater than 0"]),
        (["quickstart", "--set", "ppo.beta"], ["ppo.beta", "expected key=value"]),
        (["quickstart", "--set", "=1"], ["expected key=value"]),
        (["quickstart", "--set", "sft=1"], ["sft"]),
        (
            ["quickstart", "--set", "reward.gate.overrides.accuracy.threshold=0.6"],
            ["reason", "required"],
        ),
    ],
)
def test_bad_configuration_is_one_message_and_exit_2(rlhf, command, words, says):
    code, out, err = rlhf(command, *words)
    assert code == 2 and out == "" and "Traceback" not in err
    assert err.startswith("rlhf: error: ") and all(word in err for word in says)


@pytest.mark.parametrize(
    "words",
    [
        ["run"],
        ["run", "quickstart", "--nosuch"],
        ["nosuch"],
        ["run", "quickstart", "--from", "training"],
        ["run", "quickstart", "--from", "ppo", "--until", "sft"],
    ],
)
def test_wrong_usage_is_exit_2(rlhf, words):
    code, _, err = rlhf(*words)
    assert code == 2 and "Usage" in err and "Traceback" not in err


def test_a_toml_file_that_is_none_is_exit_2(rlhf, tmp_path):
    file = tmp_path / "broken.toml"
    file.write_text("name = ")
    code, _, err = rlhf("run", file)
    assert code == 2 and "not valid TOML" in err


@pytest.mark.parametrize("how", ["option", "variable"])
def test_debug_shows_the_traceback(rlhf, monkeypatch, how):
    monkeypatch.setenv("RLHF_DEBUG", "1" if how == "variable" else "0")
    code, _, err = rlhf("run", "nosuch", *(["--debug"] if how == "option" else []))
    assert code == 2 and "Traceback" in err and "no recipe 'nosuch'" in err


def test_anything_unexpected_is_exit_1_without_a_traceback(rlhf, monkeypatch):
    monkeypatch.setenv("RLHF_HOME", "/dev/null/workspace")
    code, _, err = rlhf("status")
    assert (
        code == 1
        and err.startswith("rlhf: error: unexpected ")
        and "Traceback" not in err
        and "--debug" in err
    )


# runs


def test_a_run_ends_with_its_table_and_the_promotion(rlhf, recipe_file):
    code, out, err = rlhf("run", recipe_file)
    assert code == 0, err
    assert "sft: done" in err and "reward: started" in err
    assert (
        "Promotion: promoted" in out
        and "accuracy 0.8" in out
        and "gate passed" in out
        and "/runs/" in out
    )
    code, out, _ = rlhf("run", recipe_file, "--json")
    values = json.loads(out)
    assert code == 0 and values["state"] == "finished" and values["promotion"]["promoted"] is True
    stages = {stage["stage"]: stage for stage in values["stages"]}
    assert all(stages[name]["cached"] for name in ("validate", "sft", "reward", "ppo", "evaluate"))
    assert stages["reward"]["value"] == 0.8 and stages["reward"]["mlflow"]
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


def test_validate_prints_the_data_report_and_trains_nothing(rlhf, recipe_file, command):
    report = {
        "columns": ["rule", "source", "severity", "passed", "found", "expected", "detail"],
        "data": [
            ["duplicates", "comparisons", "warning", False, 3, "no row", "3 of 40 rows"],
            ["min_rows", "comparisons", "error", True, 40, "at least 1", ""],
        ],
    }
    program = Path(command[1])
    text = program.read_text().replace(
        '"docs": "docs"}', '"docs": "docs", "report_table": "report.table.json"}'
    )
    program.write_text(
        text.replace(
            "result = StageResult",
            f"(run.path / 'report.table.json').write_text('''{json.dumps(report)}''')\nresult ="
            " StageResult",
        )
    )
    code, out, err = rlhf("validate", recipe_file)
    assert code == 0, err
    assert (
        "duplicates" in out
        and "warning: duplicates (comparisons): 3 of 40 rows" in out
        and "sft" not in out
    )
    assert json.loads(rlhf("validate", recipe_file, "--json")[1])["report"] == report


def test_data_that_is_not_there_is_exit_2(rlhf, recipe_file):
    code, _, err = rlhf("run", recipe_file, "--set", "data.comparisons=nosuch.jsonl")
    assert code == 2 and "nosuch.jsonl" in err and "Traceback" not in err


def test_sync_with_nothing_to_forward_is_exit_0(rlhf):
    code, out, _ = rlhf("sync", "--json")
    assert code == 0 and json.loads(out) == {"forwarded": [], "waiting": [], "problem": None}


# status


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


# the pages


def test_ui_refuses_a_taken_port(rlhf):
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        code, _, err = rlhf("ui", "--no-browser", "--port", server.getsockname()[1])
    assert code == 2 and "is taken" in err


def test_ui_serves_both_pages_and_leaves_nothing_behind(home):
    from flows.platform.pages import answers

    ports = (free_port(), free_port())
    command = [
        *RLHF,
        "ui",
        "--no-browser",
        "--port",
        str(ports[0]),
        "--prefect-port",
        str(ports[1]),
    ]
    ui = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    lines = [ui.stdout.readline() for _ in range(3)]
    assert lines[-1].startswith("Ctrl-C"), f"ended with {ui.wait(30)}"
    assert [line.split()[-1] for line in lines[:2]] == [
        f"http://127.0.0.1:{port}" for port in ports
    ]
    assert answers(f"http://127.0.0.1:{ports[0]}/health") and answers(
        f"http://127.0.0.1:{ports[1]}/api/health"
    )
    ui.send_signal(signal.SIGTERM)
    assert ui.wait(30) == 0
    assert not answers(f"http://127.0.0.1:{ports[0]}/health") and not answers(
        f"http://127.0.0.1:{ports[1]}/api/health"
    )
    ui.stdout.close()


# warm-up


def test_warm_up_without_a_compiler_says_how_to_install_one(tmp_path):
    environment = {name: value for name, value in os.environ.items() if name != "CXX"} | {
        "PATH": str(tmp_path)
    }
    command = [sys.executable, "-m", "rlhf_core.engine.warmup"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert (
        done.returncode == 2
        and "apt-get install g++" in done.stderr
        and "Traceback" not in done.stderr
    )


def test_warm_up_with_a_torch_that_misses_its_libraries_names_the_index(tmp_path):
    (tmp_path / "torch.py").write_text(
        "raise OSError('libcudart.so.13: cannot open shared object file')"
    )
    command = [sys.executable, "-m", "rlhf_core.engine.warmup"]
    done = subprocess.run(
        command, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(tmp_path)}
    )
    assert (
        done.returncode == 2
        and "libcudart" in done.stderr
        and "index of the CPU builds" in done.stderr
    )


def test_warm_up_does_not_wait_for_the_lock_of_a_killed_build(monkeypatch):
    monkeypatch.delenv("TORCH_EXTENSIONS_DIR", raising=False)
    folder = keep_extensions_here() / "deepspeed_shm_comm"
    monkeypatch.delenv("TORCH_EXTENSIONS_DIR")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "lock").touch()
    done = subprocess.run(
        [sys.executable, "-m", "rlhf_core.engine.warmup"],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert not (folder / "lock").exists()

"""The command line: help, imports, completion, exit codes and messages of bad input."""

import json
import os
import resource
import subprocess
import sys

import pytest
from unprivileged import without_privileges

from flows.cli import app

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
    # whatever else runs on the machine
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 0.5


@pytest.mark.parametrize("name", LAZY)
def test_help_of_all_commands_says_the_first_line_of_each_command(name):
    command = app.load_command(name)
    assert command.help.split("\n\n")[0] == LAZY[name]


def test_help_of_a_command_imports_no_other_command():
    code = """
import contextlib, io, sys
from flows.cli import app
modules = {
    f"flows.cli.{panel}.{name.replace('-', '_').replace(' ', '_')}": name
    for panel, commands in app.COMMANDS.items()
    for name in commands
}
for name in modules.values():
    with contextlib.redirect_stdout(io.StringIO()) as out:
        try:
            code = app.main([*name.split(), "--help"])
        except SystemExit as end:
            code = end.code
    assert code == 0 and f" {name} [OPTIONS]" in out.getvalue()
    loaded = modules.keys() & sys.modules.keys()
    print(name, *(modules[module] for module in loaded), sep="; ")
    for module in loaded:
        del sys.modules[module]
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [f"{name}; {name}" for name in LAZY]


def completed(*words: str) -> list[str]:
    """Return the completions that bash gets for the last of the words."""
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
            ["reason", "is missing"],
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


def test_a_workspace_that_cannot_be_made_is_exit_2(rlhf, monkeypatch):
    monkeypatch.setenv("RLHF_HOME", "/dev/null/workspace")
    code, _, err = rlhf("status")
    assert code == 2 and "/dev/null/workspace cannot be made" in err and "RLHF_HOME" in err


def test_anything_unexpected_is_exit_1_without_a_traceback(rlhf, home):
    (home / "platform" / "state.json").mkdir(parents=True)
    code, _, err = rlhf("status")
    assert (
        code == 1
        and err.startswith("rlhf: error: unexpected ")
        and "Traceback" not in err
        and "--debug" in err
    )


# a workspace that cannot be written


WRITING_COMMANDS = {
    "run": ["quickstart"],
    "validate": ["quickstart"],
    "sweep": ["quickstart", "--over", "seed=1,2"],
    "iterate": ["quickstart"],
    "trace": ["quickstart"],
    "approve": ["latest"],
    "access": ["setup", "quickstart", "--promoter", "ann"],
    "promote": ["quickstart", "1"],
    "rollback": ["quickstart"],
    "serve": ["quickstart"],
    "deploy": ["quickstart", "--name", "x"],
    "undeploy": ["weekly"],
    "runs rm": ["latest"],
    "reap": [],
    "sync": [],
    "gc": [],
    "up": [],
    "history": ["quickstart"],
    "heldout": ["show", "quickstart"],
    "label open": ["latest", "--annotators", "ann"],
    "label reassign": ["week-48", "--without", "bob"],
    "label close": ["week-48", "--out", "comparisons.jsonl"],
    "label import": ["votes.jsonl", "--out", "comparisons.jsonl"],
    "feedback export": ["quickstart", "--out", "thumbs.jsonl"],
    "down": [],
    "ui": ["--no-browser"],
    "live": ["quickstart"],
}
CALL_EACH = """
import json, sys
from flows.cli.app import main
for name, words in json.loads(sys.argv[1]).items():
    print(main([*name.split(), *words]), flush=True)
"""


def call_in_closed_workspace(commands: dict[str, list[str]], home) -> tuple[list[str], list[str]]:
    """Return the exit codes of commands, and the lines that they wrote to standard error."""
    home.mkdir()
    home.chmod(0o555)
    done = subprocess.run(
        without_privileges(sys.executable, "-c", CALL_EACH, json.dumps(commands)),
        capture_output=True,
        text=True,
        env=os.environ | {"RLHF_HOME": str(home)},
        timeout=120,
    )
    home.chmod(0o755)
    return done.stdout.split(), done.stderr.splitlines()


def test_each_command_that_writes_is_refused_at_once(tmp_path):
    codes, said = call_in_closed_workspace(WRITING_COMMANDS, tmp_path / "w")
    assert codes == ["2"] * len(WRITING_COMMANDS)
    ours = [line for line in said if line.startswith("rlhf: ")]
    assert len(ours) == len(WRITING_COMMANDS)
    assert all(f"{tmp_path / 'w'} cannot be written by user" in line for line in ours)
    assert all("Set RLHF_HOME to another folder" in line for line in ours)


def test_help_needs_no_right_to_write(tmp_path):
    codes, said = call_in_closed_workspace({"recipes": [], "promote": ["--help"]}, tmp_path / "w")
    assert codes == ["0"] or not any("cannot be written" in line for line in said)


def test_the_table_of_commands_that_write_is_tested_in_full():
    assert set(WRITING_COMMANDS) == app.WRITING

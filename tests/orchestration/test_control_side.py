"""Commands, flows, tracking and registry run without what the stages compute with."""

import ast
import json
import subprocess
import sys
from pathlib import Path

from command_line import environment_of
from control_environment import python_of_commands

from flows.platform.doctor_packages import read_lock
from tasks.execution.stage_python import VARIABLE
from tasks.records.shipped import shipped

ROOT = Path(__file__).resolve().parents[2]
LAYERS = ("flows", "tasks")
# what only stages need; importing one of them is an error while the modules below are imported
STAGES_ALONE = (
    *("accelerate", "datasets", "deepspeed", "gguf", "great_expectations", "huggingface_hub"),
    *("lm_eval", "openai", "peft", "safetensors", "tokenizers", "torch", "transformers", "vllm"),
)
# modules that are imported by a process of the stages alone: who names them to it
OF_STAGES = {"tasks/registry/answers.py": "the smoke test of a promotion"}
IMPORT = f"""
import importlib, sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {STAGES_ALONE}:
            raise ImportError(name)

sys.meta_path.insert(0, Refuse())
failed = []
for name in sys.argv[1:]:
    try:
        importlib.import_module(name)
    except ImportError as error:
        failed.append(f"{{name}}: {{error}}")
print("\\n".join(failed))
"""


def module_of(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def modules_imported_anywhere() -> set[str]:
    """Return the modules of this project in flows and tasks, and all that a function imports."""
    found = set()
    for file in (file for layer in LAYERS for file in (ROOT / layer).rglob("*.py")):
        if str(file.relative_to(ROOT)) in OF_STAGES:
            continue
        found.add(module_of(file))
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.ImportFrom) or not str(node.module).startswith("rlhf_core"):
                continue
            for name in (node.module, *(f"{node.module}.{alias.name}" for alias in node.names)):
                place = ROOT.joinpath(*str(name).split("."))
                if place.with_suffix(".py").exists() or (place / "__init__.py").exists():
                    found.add(str(name))
    return found


def test_flows_and_tasks_import_nothing_that_only_stages_need():
    command = [sys.executable, "-c", IMPORT, *sorted(modules_imported_anywhere())]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == []


VERSIONS = "from importlib.metadata import version; print(version('prefect'), version('mlflow'))"


def test_the_environment_of_commands_has_its_lock_and_no_torch():
    def run(code: str) -> subprocess.CompletedProcess:
        return subprocess.run([python_of_commands(), "-c", code], capture_output=True, text=True)

    locked = read_lock(shipped("infra/requirements") / "control.txt")
    assert run(VERSIONS).stdout.split() == [locked["prefect"], locked["mlflow"]]
    for name in ("torch", "vllm", "transformers"):
        assert f"No module named '{name}'" in run(f"import {name}").stderr


def test_its_commands_run_the_stages_in_the_environment_of_these_tests(real_recipe, tmp_path):
    """`--version` asks both sides, `run` has Prefect's server, a flow and a stage."""
    program = python_of_commands().with_name("rlhf")
    environment = environment_of(tmp_path / "home")
    environment.pop(VARIABLE, None)

    def call(*words: str) -> str:
        done = subprocess.run([program, *words], env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    assert [line.split()[1] for line in call("--version").splitlines() if "lock" in line] == [
        "control.txt",
        "cpu.txt",
    ]
    run = json.loads(call("run", str(real_recipe), "--until", "validate", "--json"))
    assert [stage["stage"] for stage in run["stages"]] == ["validate"]
    (result,) = (tmp_path / "home" / "runs").glob("*/result.json")
    assert "torch" in json.loads(result.read_text())["environment"]

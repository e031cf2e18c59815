"""Imports go one way, and each heavy library is known to as few files as the design says."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LAYERS = ("flows", "tasks", "rlhf_core")
OWNERS = {
    "mlflow": {
        "tasks/access/setup.py",
        "tasks/labels/answers.py",
        "tasks/labels/queues.py",
        "tasks/approval/server_answer.py",
        "tasks/live/gateway.py",
        "tasks/live/people.py",
        "tasks/live/replies.py",
        "tasks/live/shadow.py",
        "tasks/live/traces.py",
        "tasks/promotion/candidates.py",
        "tasks/registry/approval_queue.py",
        "tasks/tracking/account.py",
        "tasks/registry/answers.py",
        "tasks/registry/frame.py",
        "tasks/registry/packaging.py",
        "tasks/tracking/client.py",
        "tasks/tracking/forwarder.py",
        "tasks/tracking/run_writer.py",
        "tasks/tracking/spending.py",
        "tasks/tracking/sqlite_store.py",
        "tasks/tracking/verdict_traces.py",
        "tasks/registry/fetching.py",
        "tasks/registry/versions.py",
        "tasks/promotion/ledger.py",
        "tasks/analysis/mlflow_runs.py",
    },
    "deepspeed": {
        "rlhf_core/engine/bootstrap.py",
        "rlhf_core/engine/deepspeed.py",
        "rlhf_core/engine/gathering.py",
    },
    "vllm": {
        "rlhf_core/sampling/output_layer.py",
        "rlhf_core/sampling/adapters.py",
        "rlhf_core/sampling/shared_blocks.py",
        "rlhf_core/sampling/vllm.py",
        "rlhf_core/sampling/weight_transfer.py",
    },
    "ray": {
        "tasks/execution/ray_cluster/cluster.py",
        "tasks/execution/ray_cluster/rank_actor.py",
        "tasks/execution/ray_cluster/ranks.py",
        "tasks/execution/ray_cluster/sharing.py",
    },
    "peft": {"rlhf_core/modeling/lora.py"},
    "fsspec": {"rlhf_core/buckets.py"},
    "great_expectations": {"rlhf_core/data/expectations.py"},
}


def imported(file: Path) -> set[str]:
    """Return the top-level names that a file imports when it runs, by `import_module` too."""
    names = set()
    tree = ast.parse(file.read_text())
    for_types = [
        node
        for test in ast.walk(tree)
        if isinstance(test, ast.If) and ast.unparse(test.test) == "TYPE_CHECKING"
        for node in ast.walk(test)
    ]
    for node in ast.walk(tree):
        if node in for_types:
            continue
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names.add(node.module.split(".")[0])
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(
            ("import_module", "__import__")
        ):
            names |= {
                str(argument.value).split(".")[0]
                for argument in node.args
                if isinstance(argument, ast.Constant)
            }
    return names


def importers(library: str) -> set[str]:
    files = [file for layer in LAYERS for file in (ROOT / layer).rglob("*.py")]
    return {str(file.relative_to(ROOT)) for file in files if library in imported(file)}


@pytest.mark.parametrize("library", OWNERS)
def test_a_heavy_library_is_imported_by_its_owners_only(library):
    assert importers(library) == OWNERS[library]


def test_prefect_is_imported_by_flows_and_tasks_only():
    found = importers("prefect")
    assert found and all(name.startswith(("flows/", "tasks/")) for name in found)


def test_the_import_contracts_hold():
    command = [str(Path(sys.executable).parent / "lint-imports"), "--no-cache"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_folder_mlflow_does_not_shadow_the_library():
    code = "import mlflow; print(mlflow.__file__)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert "site-packages" in done.stdout

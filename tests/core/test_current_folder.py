"""A stage process imports libraries before files of the folder in which it was started."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from rlhf_core.config import Data
from rlhf_core.rundir import Artifact, StageSpec

RULES = {"min_demonstrations": 5, "min_comparisons": 5, "min_heldout": 1}


@pytest.fixture
def validate(tmp_path, tiny_model):
    """Run the stage validate on small files in a folder, with more variables."""
    rows = {
        "demonstrations": [{"prompt": f"w{i}", "response": f"w{i} w1"} for i in range(40)],
        "comparisons": [
            {"prompt": f"w{i}", "chosen": "w1 w2", "rejected": "w3 w4 w5"} for i in range(40)
        ],
    }
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    paths = {name: tmp_path / f"{name}.jsonl" for name in rows}
    for name, path in paths.items():
        path.write_text("".join(json.dumps(row) + "\n" for row in rows[name]))
    data = Data(**{name: str(path) for name, path in paths.items()}, rules=RULES)
    inputs = {name: Artifact.of(path) for name, path in ({"model": tiny_model} | paths).items()}
    config = {"data": data.model_dump(mode="json")}
    spec = StageSpec(stage="validate", seed=1, config=config, inputs=inputs, code="c")
    (run_dir / "spec.json").write_text(spec.model_dump_json())
    words = ["-m", "rlhf_core", "validate", str(run_dir / "spec.json")]

    def run(folder: Path, **variables: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            [
                sys.executable,
                *words,
                os.path.relpath(run_dir, folder),
            ],  # a user may give such a one
            capture_output=True,
            text=True,
            cwd=folder,
            env=os.environ | variables,
        )

    return run


@pytest.mark.slow
def test_files_with_the_names_of_libraries_do_not_replace_them(tmp_path, validate):
    folder = tmp_path / "user"
    (folder / "pandas").mkdir(parents=True)
    (folder / "pandas" / "__init__.py").write_text("x = 1")
    for name in ("datasets", "tokenizers", "safetensors", "pydantic"):
        (folder / f"{name}.py").write_text("x = 1")
    done = validate(folder)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "result.json").exists()


@pytest.mark.slow
def test_a_stage_process_does_not_import_scikit_learn(tmp_path, validate):
    done = validate(tmp_path, PYTHONPROFILEIMPORTTIME="1")
    assert done.returncode == 0, done.stderr
    assert "transformers.generation" in done.stderr and "sklearn" not in done.stderr


def test_a_package_that_does_not_import_is_refused_and_not_tried_again(tmp_path, validate):
    (tmp_path / "tokenizers.py").write_text("x = 1")
    done = validate(tmp_path, PYTHONPATH=str(tmp_path))
    assert done.returncode == 2 and "Traceback" in done.stderr
    failure = json.loads((tmp_path / "run" / "failure.json").read_text())
    assert failure["error"] == "BadInput"
    assert "cannot import" in failure["message"] and "tokenizers" in failure["message"]
    assert "rlhf doctor" in failure["message"]


@pytest.mark.parametrize("option", ["-c", "-Pc"])
def test_a_module_of_the_current_folder_is_found(tmp_path, option):
    """A recipe names functions in it."""
    (tmp_path / "my_rules.py").write_text("")
    code = "import sys; sys.argv = ['-m']; import rlhf_core, my_rules; print(my_rules.__file__)"
    root = str(Path(__file__).parents[2])
    done = subprocess.run(
        [sys.executable, option, code],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": root},
    )
    assert done.stdout.strip() == str(tmp_path / "my_rules.py"), done.stderr

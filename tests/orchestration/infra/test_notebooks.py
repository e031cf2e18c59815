"""The notebooks of the documentation show what their code gives, and run from an empty folder."""

import ast
import json
import re
from pathlib import Path

import pytest

from flows import api

ROOT = Path(__file__).resolve().parents[3]
SITE, START = ROOT / "infra" / "docs-site", ROOT / "infra" / "docs" / "start"
NOTEBOOKS = sorted(START.glob("*.ipynb"))
LARGEST = 60_000  # bytes
PRIVATE = re.compile(r"/tmp/|/home/|/root/|/work/|/usr/|Traceback|password|token=", re.IGNORECASE)

each_notebook = pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.name)


@pytest.fixture(autouse=True)
def site_is_importable(monkeypatch):
    monkeypatch.syspath_prepend(str(SITE))


def code_cells(notebook: dict) -> list[dict]:
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def text_of(cell: dict) -> str:
    """Return what a cell shows as text."""
    shown = [
        one["text"] if one["output_type"] == "stream" else one["data"].get("text/plain", [])
        for one in cell["outputs"]
    ]
    return "".join(line for lines in shown for line in lines)


def test_both_notebooks_are_run_by_the_program():
    from run_notebooks import NOTEBOOKS as RUN

    assert sorted(RUN) == NOTEBOOKS and len(NOTEBOOKS) == 2


@each_notebook
def test_a_notebook_is_executed_in_order_small_and_free_of_this_machine(file):
    text = file.read_text(encoding="utf-8")
    notebook = json.loads(text)
    counts = [cell["execution_count"] for cell in code_cells(notebook)]
    assert counts == list(range(1, len(counts) + 1))
    assert len(text.encode()) < LARGEST and not PRIVATE.findall(text)
    for cell in code_cells(notebook):
        last = ast.parse("".join(cell["source"])).body[-1]
        assert not isinstance(last, ast.Expr) or cell["outputs"], cell["source"]


@each_notebook
def test_a_notebook_calls_what_the_interface_has(file):
    notebook = json.loads(file.read_text(encoding="utf-8"))
    named = {
        node.attr
        for cell in code_cells(notebook)
        for node in ast.walk(ast.parse("".join(cell["source"])))
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "rlhf"
    }
    assert named and named <= set(api.__all__)


def test_paths_of_the_machine_and_progress_are_left_out_of_what_is_kept(tmp_path):
    from run_notebooks import tidied

    said = [f"ppo: started, log {tmp_path}/.rlhf/runs/x\n", "ppo: step 3/9, 1 s so far\n"]
    said += [f"ppo: done; {tmp_path}/.rlhf/y\n"]
    stream = {"output_type": "stream", "name": "stderr", "text": said}
    html = {"text/html": ['<pre style="white-space:pre;">x</pre>'], "text/plain": ["sft: done\n"]}
    rich = {"output_type": "display_data", "data": html, "metadata": {}}
    outputs = [stream, rich]
    cell = {"cell_type": "code", "source": [], "outputs": outputs, "metadata": {"execution": 1}}
    (kept,) = tidied({"cells": [cell], "metadata": {}}, tmp_path)["cells"]
    (shown,) = kept["outputs"]
    assert shown["text"] == ["ppo: done; .rlhf/y\n", "sft: done\n"] and kept["metadata"] == {}


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_the_notebooks_run_from_an_empty_folder(tmp_path):
    import docs_environment
    import run_notebooks

    docs_environment.prepare()
    first, second = (run_notebooks.run(file, tmp_path) for file in run_notebooks.NOTEBOOKS)
    assert "finished" in text_of(code_cells(first)[1])
    kept = json.loads(run_notebooks.NOTEBOOKS[0].read_text(encoding="utf-8"))
    assert len(code_cells(first)) == len(code_cells(kept))
    champions = [text_of(cell) for cell in code_cells(second) if cell["outputs"]]
    assert champions[0].endswith("'1'") and any(one == "'1'" for one in champions[-2:])

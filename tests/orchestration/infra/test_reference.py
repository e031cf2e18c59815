"""The generated pages of infra/docs/reference are what the code says."""

import re
import runpy
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
sys.path.append(str(ROOT / "infra"))  # where it finds its own module, as a script does
MADE = runpy.run_path(str(ROOT / "infra" / "reference.py"))
PAGES = MADE["pages"]()


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_the_committed_page_is_what_the_code_says(path):
    assert path.read_text() == PAGES[path], "run .venv/stage/bin/python infra/reference.py"


def test_every_variable_of_the_project_that_the_code_names_is_on_the_page():
    code = "".join(
        path.read_text()
        for layer in ("flows", "tasks", "rlhf_core")
        for path in (ROOT / layer).rglob("*.py")
    )
    named = set(re.findall(r"\bRLHF_[A-Z_]+\b", code))
    assert named and named <= MADE["VARIABLES"].keys()
    assert {name for name in MADE["VARIABLES"] if name.startswith("RLHF_")} <= named


def test_every_metric_is_on_the_page():
    page = (ROOT / "infra" / "docs" / "reference" / "metrics.md").read_text()
    assert all(page.count(f"| `{name}` |") == 1 for name in MADE["METRICS"])

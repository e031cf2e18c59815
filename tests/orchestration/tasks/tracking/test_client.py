"""The connection to a store."""

import subprocess
import sys

import pytest

from tasks.tracking.client import PAGE_VARIABLE, brief, page, page_base


def test_a_new_store_is_made_without_a_word(tmp_path):
    code = f"from tasks.tracking.client import connect; connect('sqlite:///{tmp_path}/mlflow.db')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (tmp_path / "mlflow.db").exists() and done.stdout == "" and done.stderr == ""


@pytest.mark.parametrize("served", [None, "https://ann:secret@mlflow.example/"])
def test_the_page_of_a_run_has_no_user_name_and_no_password(monkeypatch, served):
    if served:
        monkeypatch.setenv(PAGE_VARIABLE, served)
    host = "https://mlflow.example" if served else "http://host:5000"
    assert page("http://ann:secret@host:5000/", "1", "abc") == f"{host}/#/experiments/1/runs/abc"
    assert "ann" not in page_base("sqlite:///mlflow.db")


def test_an_error_in_short_has_no_password_of_an_address():
    error = RuntimeError("API request to http://ann:secret@host:5000/api/2.0 failed: it's 3:15")
    assert brief(error) == (
        "RuntimeError: API request to http://ann:***@host:5000/api/2.0 failed: it's 3:15"
    )

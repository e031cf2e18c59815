"""The connection to a store."""

import subprocess
import sys


def test_a_new_store_is_made_without_a_word(tmp_path):
    code = f"from tasks.tracking.client import connect; connect('sqlite:///{tmp_path}/mlflow.db')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (tmp_path / "mlflow.db").exists() and done.stdout == "" and done.stderr == ""

"""`rlhf sync`: what waits, and where it goes."""

import json
import shutil

from recipes import tiny_recipe

from tasks.records.run_record import Record
from tasks.records.workspace import Workspace


def test_sync_with_nothing_to_forward_is_exit_0(rlhf):
    code, out, _ = rlhf("sync", "--json")
    assert code == 0 and json.loads(out) == {"forwarded": [], "waiting": [], "problem": None}


def test_a_malformed_address_is_refused_before_the_first_stage(rlhf, recipe_file, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "localhost:5000")
    for words in (("validate", recipe_file), ("run", recipe_file), ("sync", "--to", "mlruns")):
        code, _, error = rlhf(*words)
        assert code == 2 and "the MLflow address" in error and "expected http://" in error


def test_a_waiting_run_can_be_sent_to_another_address(rlhf, home, tmp_path, empty_store):
    workspace = Workspace.here()
    record = Record.new(workspace, tiny_recipe())
    record.tracking_uri = "http://127.0.0.1:9"
    record.save(workspace)
    code, _, error = rlhf("sync")
    assert code == 1 and "rlhf sync --to ADDRESS" in error
    other = f"sqlite:///{shutil.copy(empty_store, tmp_path / 'other.db')}"
    code, out, _ = rlhf("sync", "--to", other)
    assert code == 0 and out == f"forwarded: {record.name}\n"

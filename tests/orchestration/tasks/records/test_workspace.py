"""The workspace's folder: made when absent, refused where it cannot be used."""

import pytest

from rlhf_core.errors import BadInput
from tasks.records.workspace import Workspace


def test_a_path_with_a_question_mark_is_refused_before_anything_is_made(tmp_path, monkeypatch):
    monkeypatch.setenv("RLHF_HOME", str(tmp_path / "h?q=1"))
    with pytest.raises(BadInput, match=r"question mark.*RLHF_HOME"):
        Workspace.here()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["a b", "a#b", "a%20b", "\u00e4\u00f6\u00fc", "a&b=c", "a;b"])
def test_a_store_is_where_the_path_says(tmp_path, monkeypatch, name):
    from tasks.tracking.client import client_for

    monkeypatch.setenv("RLHF_HOME", str(tmp_path / name))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    workspace = Workspace.here()
    client_for(workspace.tracking_uri).search_experiments()
    assert (tmp_path / name / "mlflow.db").stat().st_size > 0
    assert [path.name for path in tmp_path.iterdir()] == [name]

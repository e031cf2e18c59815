"""An address that no MLflow store has is refused; one that does not answer is not."""

import pytest

from rlhf_core.errors import BadInput
from tasks.tracking.address import is_address, require_address


@pytest.mark.parametrize(
    "uri",
    [
        "http://127.0.0.1:5000",
        "https://mlflow.example.org/path",
        "http://ada:secret@127.0.0.1:9",
        "http://[::1]:5000",
        "postgresql://mlflow@postgres/mlflow",
        "mysql+pymysql://mlflow@host:3306/mlflow",
        "sqlite:///relative.db",
        "sqlite:///:memory:",
        "databricks",
    ],
)
def test_an_address_that_a_store_can_have_passes(uri):
    require_address(uri)
    assert is_address(uri)


@pytest.mark.parametrize(
    ("uri", "problem"),
    [
        ("localhost:5000", "does not begin with http://"),
        ("127.0.0.1:5000", "does not begin with http://"),
        ("mlflow.example.org:5000/path", "does not begin with http://"),
        ("mlruns", "is a folder"),
        ("./mlruns", "is a folder"),
        ("file:///tmp/mlruns", "is a folder"),
        ("htp://127.0.0.1:5000", "does not begin with http://"),
        ("http:127.0.0.1:5000", "names no host"),
        ("http://", "names no host"),
        ("http://127.0.0.1:port", "is malformed"),
        ("http://[::1", "is malformed"),
        ("sqlite://mlflow.db", "slashes"),
        ("sqlite:mlflow.db", "slashes"),
    ],
)
def test_an_address_that_no_store_has_is_bad_input(uri, problem):
    with pytest.raises(BadInput, match=problem) as raised:
        require_address(uri)
    assert "expected http://HOST:PORT" in str(raised.value)
    assert not is_address(uri)


def test_a_database_in_a_folder_that_is_not_there_is_bad_input(tmp_path):
    uri = f"sqlite:///{tmp_path / 'absent' / 'mlflow.db'}"
    with pytest.raises(BadInput, match="no such folder"):
        require_address(uri)
    assert is_address(uri)  # perhaps a disk that is not mounted: records wait for it


def test_the_password_of_a_refused_address_is_not_printed():
    with pytest.raises(BadInput) as raised:
        require_address("htp://ada:secret@127.0.0.1:5000")
    assert "secret" not in str(raised.value)

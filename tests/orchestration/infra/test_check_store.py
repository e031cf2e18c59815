"""The trial of an object store: what it says of one that serves, and of one that does not."""

import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
main = runpy.run_path(str(ROOT / "infra" / "check_store.py"))["main"]


def test_a_store_that_serves_is_left_as_it_was(s3, monkeypatch, capsys):
    s3.use(monkeypatch)
    assert main(["s3://team/trial"]) == 0
    out = capsys.readouterr().out
    assert "data are found by a pattern, and a change by its ETag" in out
    assert out.endswith("everything was removed again\n")


def test_a_bucket_that_is_not_there_is_refused(s3, monkeypatch, capsys):
    s3.use(monkeypatch)
    assert main(["s3://nobodys/trial"]) == 2
    assert "s3://nobodys/trial/check-" in capsys.readouterr().err


def test_a_store_that_cannot_be_written_is_a_failure(tmp_path, capsys):
    (tmp_path / "file").write_text("no folder")
    assert main([f"file://{tmp_path}/file"]) == 1
    assert "failed: " in capsys.readouterr().err


@pytest.mark.parametrize("words", [[], ["s3://a", "s3://b"]])
def test_it_takes_one_address(words, capsys):
    assert main(words) == 2 and "infra/check_store.py az://" in capsys.readouterr().err

"""A pattern names files in the order of their paths; a name that is there is none."""

from pathlib import Path

import pytest

from rlhf_core.digest import digest_path
from rlhf_core.errors import BadInput
from rlhf_core.patterns import fixed_folder, is_pattern, is_there, matching_files
from rlhf_core.rundir import Artifact


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)


def names(pattern: Path) -> list[str]:
    return [file.name for file in matching_files(pattern)]


def test_files_come_in_order_without_folders_and_hidden_ones(tmp_path):
    touch(tmp_path, "b.jsonl", "a.jsonl", ".c.jsonl", "d/e.jsonl", "folder.jsonl/x")
    assert names(tmp_path / "*.jsonl") == ["a.jsonl", "b.jsonl"]
    assert names(tmp_path / "**" / "*.jsonl") == ["a.jsonl", "b.jsonl", "e.jsonl"]
    assert names(tmp_path / "[ab].jsonl") == ["a.jsonl", "b.jsonl"]
    assert names(tmp_path / "?.csv") == [] and not is_there(tmp_path / "?.csv")
    assert fixed_folder(tmp_path / "*" / "a.jsonl") == tmp_path


def test_a_file_with_brackets_in_its_name_is_no_pattern(tmp_path):
    touch(tmp_path, "a[1].jsonl", "a1.jsonl")
    assert not is_pattern(tmp_path / "a[1].jsonl") and is_pattern(tmp_path / "a[12].jsonl")


def test_the_digest_of_a_pattern_covers_names_and_contents_of_all_files(tmp_path):
    touch(tmp_path, "a.jsonl", "b.jsonl")
    pattern = tmp_path / "*.jsonl"
    first = Artifact.of(pattern)
    assert first.digest == digest_path(tmp_path) and first.verified() == first
    touch(tmp_path, "c.csv")
    assert digest_path(pattern) == first.digest
    (tmp_path / "b.jsonl").write_text("other")
    second = digest_path(pattern)
    (tmp_path / "b.jsonl").rename(tmp_path / "c.jsonl")
    assert len({first.digest, second, digest_path(pattern)}) == 3
    with pytest.raises(BadInput, match="does not exist"):
        Artifact.of(tmp_path / "*.parquet")

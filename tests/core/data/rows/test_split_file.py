"""Rows of a split's file, read as they are asked for."""

import json

import pytest

from rlhf_core.data.rows.split_file import SplitFile
from rlhf_core.errors import BadInput

ROWS = [{"id": n, "text": text} for n, text in enumerate(["a", "é\u2028 b", "", "x" * 200_000])]


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "split.jsonl"
    lines = (json.dumps(row, ensure_ascii=False) for row in ROWS)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def test_rows_are_those_of_the_lines_whatever_letters_they_hold(file):
    rows = SplitFile(file)
    assert len(rows) == 4 and list(rows) == ROWS
    assert rows[2] == rows[-2] == ROWS[2] and rows[1:] == ROWS[1:]
    with pytest.raises(IndexError):
        rows[4]


def test_rows_at_indices_keep_the_order_that_is_given(file):
    chosen = SplitFile(file).at([3, 0])
    assert list(chosen) == [ROWS[3], ROWS[0]] and chosen[1] == ROWS[0]
    assert list(chosen.at([1])) == [ROWS[0]]


def test_a_last_line_without_its_end_is_a_row_and_an_empty_file_has_none(tmp_path):
    file = tmp_path / "split.jsonl"
    file.write_bytes(b'{"id": 0}\n{"id": 1}')
    assert list(SplitFile(file)) == [{"id": 0}, {"id": 1}]
    file.write_bytes(b"")
    assert not list(SplitFile(file))


@pytest.mark.parametrize("line", [b"{no json}", b'{"text": "\xff"}'])
def test_a_line_that_is_not_json_is_named_when_it_is_read(tmp_path, line):
    file = tmp_path / "split.jsonl"
    file.write_bytes(b'{"id": 0}\n' + line + b"\n")
    rows = SplitFile(file)
    assert rows[0] == {"id": 0}
    with pytest.raises(BadInput, match="line 2 is not JSON"):
        rows[1]

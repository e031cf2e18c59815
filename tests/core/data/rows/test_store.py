"""Rows and records on disk: what is read from the file is what was written, at little memory."""

import json
import tracemalloc

import pytest

from rlhf_core.config import Source
from rlhf_core.data.normalise import normalise
from rlhf_core.data.read import read_source
from rlhf_core.data.rows.store import BATCH, MemoryStore, StoreWriter, has_text
from rlhf_core.data.splits import prompt_key, root_key, to_line
from rlhf_core.data.table import build_table

COLUMNS = ("prompt", "chosen", "rejected")
ASKED_TWICE = [
    {"role": "user", "content": "Why?"},
    {"role": "assistant", "content": "So."},
    {"role": "user", "content": "Why so?"},
]
ROWS = [
    {"prompt": "ünï \u2028", "chosen": "a ", "rejected": "b"},
    {"prompt": "ünï \u2028", "chosen": "b", "rejected": " a", "score_chosen": 1},
    {"prompt": ASKED_TWICE, "chosen": "c", "rejected": "d", "votes_for": 2, "votes_against": 1},
    {"prompt": "x", "chosen": "e", "rejected": "f", "score_chosen": 1, "score_rejected": 2},
    {"prompt": "y", "chosen": "g", "rejected": "h", "score_chosen": 3, "score_rejected": 3},
    {"prompt": "z", "chosen": "i", "rejected": "j", "annotator": "Ann"},
]


@pytest.mark.parametrize("on_disk", [True, False])
def test_a_file_of_records_answers_as_the_rows_themselves_do(on_disk, tmp_path):
    file = tmp_path / "r.arrow" if on_disk else None
    writer = StoreWriter(COLUMNS, pairs=True, file=file)
    records = [normalise("comparisons", COLUMNS, row) for row in ROWS]
    for row, record in zip(ROWS, records, strict=True):
        writer.add(row, record)
        writer.end_batch()
    writer.add({"prompt": " ", "chosen": 3}, None)
    writer.end_batch()
    found = writer.finish(lambda place: ROWS[place])
    for place, (row, record) in enumerate(zip(ROWS, records, strict=True)):
        alone = MemoryStore(lambda row=row: row, record)
        for asked in (
            "row",
            "line",
            "record",
            "id",
            "prompt_key",
            "root_key",
            "pair",
            "has_votes",
            "score_contradiction",
            "score_tie",
        ):
            assert getattr(found, asked)(place) == getattr(alone, asked)(0), asked
        assert found.record(place) == record and found.line(place) == to_line(record)
        assert found.prompt_key(place) == prompt_key(record["prompt"])
        assert found.root_key(place) == root_key(record["prompt"])
    assert found.pair(0) == found.pair(1)[::-1] and found.pair(0) != found.pair(1)
    assert found.root_key(2) != found.prompt_key(2)
    assert [found.has_votes(i) for i in range(6)] == [False, False, True, False, False, True]
    assert "is less than" in found.score_contradiction(3) and "both 3" in found.score_tie(4)
    assert found.record(6) is None and found.line(6) is None
    assert [found.has_text(6, column) for column in COLUMNS] == [False, True, False]


def test_null_blank_and_missing_are_no_text():
    assert [has_text(value) for value in (None, "", " \n", "a", 0, [])] == [
        False,
        False,
        False,
        True,
        True,
        True,
    ]


def test_a_source_on_disk_takes_a_small_part_of_its_size_in_memory(tmp_path):
    """4,000 pairs of 500 characters, 2.2 MB: under 1,000 bytes each, files mapped aside."""
    rows = 4 * BATCH
    with (tmp_path / "c.jsonl").open("w") as file:
        for i in range(rows):
            pair = {"prompt": f"p{i} " * 20, "chosen": f"c{i} " * 40, "rejected": f"r{i} " * 40}
            file.write(json.dumps(pair) + "\n")
    path = tmp_path / "c.jsonl"

    def build():
        read = read_source("comparisons", Source(path=str(path)), path, tmp_path)
        return build_table(read, "comparisons", {}, folder=tmp_path)

    build()  # what is loaded once and for all
    tracemalloc.start()
    table = build()
    size, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(table.kept) == rows and table.entries[-1].line == rows
    assert table.entries[2500].canonical["chosen"] == "c2500 " * 40
    assert size < 1000 * rows and peak < 2000 * rows

"""Every format gives the same rows with their places.

A source that cannot be read is refused with file and line.
"""

import json

import pandas as pd
import pyarrow as pa
import pyarrow.parquet
import pytest
from datasets import Dataset, DatasetDict

from rlhf_core.config import Source
from rlhf_core.data.read import read_source
from rlhf_core.errors import BadInput

ROWS = [
    {"prompt": "hi, you", "response": 'a "b"\nc'},
    {"prompt": "ünï", "response": "NA"},
    {"prompt": "3", "response": "4"},
]


def read(path, **options):
    return read_source("demonstrations", Source(path=str(path), **options), path)


def write_as(kind, folder):
    path = folder / f"rows.{kind}"
    frame = pd.DataFrame(ROWS)
    if kind == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    elif kind == "json":
        path.write_text(json.dumps(ROWS, indent=1, ensure_ascii=False))
    elif kind == "csv":
        frame.to_csv(path, index=False, encoding="utf-8-sig")
    elif kind == "parquet":
        frame.to_parquet(path)
    elif kind in ("arrow", "feather", "ipc"):
        frame.to_feather(path, compression="uncompressed")
    elif kind == "stream.arrow":
        table = pa.Table.from_pylist(ROWS)
        with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
            writer.write_table(table)
    elif kind == "saved":
        Dataset.from_list([*ROWS[::-1]]).select([2, 1, 0]).save_to_disk(path)
    return path


@pytest.mark.parametrize(
    "kind", ["jsonl", "json", "csv", "parquet", "arrow", "stream.arrow", "feather", "ipc", "saved"]
)
def test_every_format_gives_the_same_rows_in_order(kind, tmp_path):
    rows = read(write_as(kind, tmp_path))
    assert [row for _, row in rows] == ROWS
    assert isinstance(rows.table, Dataset)


def test_a_split_of_a_saved_dataset_is_chosen_by_name(tmp_path):
    DatasetDict(
        {"train": Dataset.from_list(ROWS), "test": Dataset.from_list(ROWS[:1])}
    ).save_to_disk(tmp_path / "d")
    assert len(read(tmp_path / "d", split="test").lines) == 1
    with pytest.raises(BadInput, match=r"splits \['test', 'train'\].*'validation'"):
        read(tmp_path / "d", split="validation")


def test_lines_are_those_of_the_file_with_blank_lines_and_line_breaks_in_values(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"prompt": "a"}\n\n{"prompt": "b"}')
    (tmp_path / "a.csv").write_text('prompt,response\n"one\ntwo",x\nthree,y\n')
    assert list(read(tmp_path / "a.jsonl").lines) == [1, 3]
    assert list(read(tmp_path / "a.csv").lines) == [2, 4]


def test_the_limit_takes_the_first_rows_of_every_format(tmp_path):
    for kind in ("jsonl", "json", "csv", "parquet", "saved"):
        rows = read(write_as(kind, tmp_path), limit=2)
        assert [row for _, row in rows] == ROWS[:2]


def test_columns_of_mixed_types_keep_the_types_they_had(tmp_path):
    rows = [
        {"prompt": "a", "x": 1, "m": [{"r": "u"}]},
        {"prompt": 7, "x": {"k": [1]}, "m": [{"c": 1}]},
        {"prompt": ["b"], "x": 2**70},
    ]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = [row for _, row in read(tmp_path / "a.jsonl")]
    assert found == rows


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b'{"prompt": "a"}\n{"prompt": "b"\n', r"a\.jsonl line 2: not JSON"),
        ("a.jsonl", b'{"prompt": "a"}\n[1]\n', r"a\.jsonl line 2: a JSON list"),
        (
            "a.jsonl",
            b'{"prompt": "a"}\n{"prompt": "\xff"}\n',
            r"a\.jsonl line 2 is not UTF-8 \(byte 0xff\)",
        ),
        ("a.jsonl", b'{"prompt": "\\ud800"}\n', r"a\.jsonl line 1: not JSON"),
        ("a.jsonl", b"", "has no rows"),
        ("a.jsonl", b"\n\n", "has no rows"),
        ("a.json", b'[{"prompt": "a"},\n {"prompt" "b"}]', r"a\.json line 2: not JSON"),
        ("a.json", b'{"rows": []}', "a JSON dict; expected a list of objects"),
        ("a.json", b'[{"prompt": "a"}, 3]', r"a\.json item 2: a JSON int"),
        ("a.json", b"[]", "has no rows"),
        ("a.csv", b"prompt,response\na,b,c\n", r"a\.csv line 2: 3 values; expected 2"),
        ("a.csv", b'prompt,response\n"a,b\n', r"a\.csv line 2: not CSV"),
        ("a.csv", b"prompt,prompt\na,b\n", "a column name twice"),
        ("a.csv", b"prompt,response\n", "has no rows"),
        ("a.parquet", b"PAR1 not parquet", "cannot be read as parquet"),
        ("a.arrow", b"not arrow", "cannot be read as arrow"),
        ("a.txt", b"hello", r"ends with '\.txt'; expected one of"),
        ("a.xlsx", b"PK", r"a\.xlsx is a workbook; save its sheet as CSV"),
        ("a.csv.zip", b"PK", r"a\.csv\.zip is a zip archive; unpack it"),
        ("a.tar.gz", b"", r"a\.tar\.gz is a tar archive; unpack it"),
        ("a.pkl", b"", r"a\.pkl is a pickle, which may run code"),
        ("a.jsonl", b'[{"prompt": "a"}]', r"line 1: a JSON list.*format 'json'"),
    ],
)
def test_what_cannot_be_read_is_refused_with_its_place(name, content, message, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(BadInput, match=message):
        read(tmp_path / name)


def test_a_folder_that_is_no_dataset_and_a_missing_file_are_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadInput, match="cannot be read as saved"):
        read(tmp_path / "empty")
    with pytest.raises(BadInput, match=r"gone\.jsonl does not exist"):
        read_source("demonstrations", Source(path="gone.jsonl"), None)


def test_a_folder_without_a_file_to_read_names_what_it_holds(tmp_path):
    (tmp_path / "rows.xlsx").write_bytes(b"PK")
    with pytest.raises(BadInput, match=r"it holds rows\.xlsx; expected .*rows\.xlsx is a workbook"):
        read(tmp_path)


def test_types_that_other_programs_write_into_parquet_are_read(tmp_path):
    text = pa.dictionary(pa.int8(), pa.string())
    message = pa.struct([("role", text), ("content", pa.large_string()), ("name", pa.null())])
    messages = [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "So."}]
    table = pa.table(
        {
            "messages": pa.array([messages], pa.large_list(message)),
            "source": pa.array(["x"]).dictionary_encode(),
            "long": pa.array(["y"], pa.large_string()),
            "view": pa.array(["z"], pa.string_view()),
        }
    )
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    ((_, row),) = read(tmp_path / "a.parquet")
    assert [(item["role"], item["content"]) for item in row["messages"]] == [
        ("user", "Why?"),
        ("assistant", "So."),
    ]
    assert (row["source"], row["long"], row["view"]) == ("x", "y", "z")


def test_an_empty_shard_adds_no_rows_and_one_without_bytes_is_named(tmp_path):
    (tmp_path / "train-0.jsonl").write_text("")
    (tmp_path / "train-1.jsonl").write_text(json.dumps(ROWS[0]) + "\n")
    assert [row for _, row in read(tmp_path)] == ROWS[:1]
    other = tmp_path / "parquet"
    other.mkdir()
    none = pa.table({"prompt": pa.array([], pa.null()), "response": pa.array([], pa.null())})
    pyarrow.parquet.write_table(none, other / "train-0.parquet")
    pyarrow.parquet.write_table(pa.Table.from_pylist(ROWS), other / "train-1.parquet")
    assert [row for _, row in read(other)] == ROWS
    (other / "train-2.parquet").write_bytes(b"")
    with pytest.raises(BadInput, match=r"train-2\.parquet cannot be read as parquet .*0 bytes"):
        read(other)


def test_nan_in_json_is_a_missing_value(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"prompt": NaN, "x": Infinity}\n{"prompt": "b", "x": 1}\n')
    assert [row for _, row in read(tmp_path / "a.jsonl")] == [
        {"prompt": None, "x": None},
        {"prompt": "b", "x": 1},
    ]


def test_a_row_has_the_columns_that_it_has_in_the_file(tmp_path):
    rows = [{"prompt": "a", "x": None}, {"prompt": "b"}, {"y": 1, "prompt": "c"}]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = read(tmp_path / "a.jsonl")
    assert [row for _, row in found] == rows and found.columns == ("prompt", "x", "y")


def test_whole_numbers_among_fractions_are_read_as_such_and_others_as_they_are(tmp_path):
    rows = [
        {"prompt": "a", "score": 1, "big": 2**60, "mixed": 1, "inside": [1]},
        {"prompt": "b", "score": 2.5, "big": 0.5, "mixed": "x", "inside": [1.5]},
        {"prompt": "c", "score": None, "big": 1, "mixed": True, "inside": [2]},
    ]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = [row for _, row in read(tmp_path / "a.jsonl")]
    assert [repr(row["score"]) for row in found] == ["1.0", "2.5", "None"]
    assert [row["big"] for row in found] == [2**60, 0.5, 1]
    assert repr([row["mixed"] for row in found]) == "[1, 'x', True]"
    assert repr([row["inside"] for row in found]) == "[[1], [1.5], [2]]"

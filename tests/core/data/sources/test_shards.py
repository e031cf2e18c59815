"""A folder of shards is one source: files of one format and one split, in the order of names."""

import gzip
import json

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rlhf_core.config import Source
from rlhf_core.data.read import read_source
from rlhf_core.errors import BadInput


def row(number):
    return {"prompt": f"p{number}", "response": f"r{number}"}


def read(path, **options):
    return read_source("demonstrations", Source(path=str(path), **options), path)


def prompts(rows):
    return [row["prompt"] for _, row in rows]


def write(folder, **files):
    """Write one file of one row per name; '__' stands for '/', '_of_' for a shard's '-of-'."""
    for number, (name, kind) in enumerate(files.items()):
        file = folder / f"{name.replace('__', '/').replace('_of_', '-of-')}.{kind}"
        file.parent.mkdir(parents=True, exist_ok=True)
        if kind == "parquet":
            pd.DataFrame([row(number)]).to_parquet(file)
        else:
            file.write_text(json.dumps(row(number)) + "\n")


@pytest.mark.parametrize("kind", ["parquet", "jsonl"])
def test_the_split_of_a_shard_is_in_its_name_or_folder(kind, tmp_path):
    write(
        tmp_path,
        **{
            "data__train-00000_of_00002": kind,
            "data__train-00001_of_00002": kind,
            "data__test-00000_of_00001": kind,
            "valid__part": kind,
        },
    )
    (tmp_path / "dataset_infos.json").write_text("{}")
    (tmp_path / "README.md").write_text("about")
    assert prompts(read(tmp_path)) == ["p0", "p1"]
    assert prompts(read(tmp_path, split="test")) == ["p2"]
    assert prompts(read(tmp_path, split="validation")) == ["p3"]
    assert prompts(read(tmp_path, format=kind)) == ["p0", "p1"]
    assert list(read(tmp_path).lines) == [1, 2] and prompts(read(tmp_path, limit=1)) == ["p0"]
    with pytest.raises(BadInput, match=r"splits \['test', 'train', 'validation'\].*'other'"):
        read(tmp_path, split="other")


def test_files_that_name_no_split_are_all_of_train(tmp_path):
    write(tmp_path, part_b="jsonl", part_a="jsonl", restrained="jsonl")
    assert prompts(read(tmp_path)) == ["p1", "p0", "p2"]
    with pytest.raises(BadInput, match=r"the splits \['train'\]; expected 'test'"):
        read(tmp_path, split="test")


def test_a_file_in_no_split_beside_others_is_refused(tmp_path):
    write(tmp_path, train="jsonl", extra="jsonl")
    with pytest.raises(BadInput, match=r"extra\.jsonl, which names no split, beside .*'train'"):
        read(tmp_path)


def test_a_folder_of_two_formats_is_refused_until_one_is_named(tmp_path):
    write(tmp_path, train="jsonl", train_b="parquet")
    with pytest.raises(BadInput, match="files of jsonl and parquet format"):
        read(tmp_path)
    assert prompts(read(tmp_path, format="jsonl")) == ["p0"]


def test_shards_of_different_columns_are_one_table_where_the_types_allow(tmp_path):
    pq.write_table(pa.table({"prompt": ["a"], "n": [1]}), tmp_path / "train-0.parquet")
    pq.write_table(pa.table({"prompt": ["b"], "response": ["c"]}), tmp_path / "train-1.parquet")
    assert [r for _, r in read(tmp_path)] == [
        {"prompt": "a", "n": 1, "response": None},
        {"prompt": "b", "n": None, "response": "c"},
    ]
    pq.write_table(pa.table({"prompt": [[1]]}), tmp_path / "train-2.parquet")
    with pytest.raises(BadInput, match="columns of different types"):
        read(tmp_path)


def test_a_column_of_a_type_that_datasets_lacks_keeps_its_values(tmp_path):
    kind = pa.map_(pa.string(), pa.string())
    table = pa.table({"prompt": ["a", "b"], "meta": pa.array([[("k", "v")], None], kind)})
    pq.write_table(table, tmp_path / "a.pq")
    assert [r for _, r in read(tmp_path / "a.pq")] == [
        {"prompt": "a", "meta": {"k": "v"}},
        {"prompt": "b", "meta": None},
    ]


def test_a_pattern_is_one_source_in_the_order_of_paths(tmp_path):
    write(tmp_path, b__part="jsonl", a__part="jsonl", a__other="parquet")
    assert prompts(read(tmp_path / "*" / "*.jsonl")) == ["p1", "p0"]
    assert list(read(tmp_path / "*" / "*.jsonl").lines) == [1, 2]
    assert prompts(read(tmp_path / "*" / "*.jsonl", limit=1)) == ["p1"]


def test_compressed_files_of_a_pattern_are_read(tmp_path):
    for number in (1, 0):
        text = json.dumps(row(number)) + "\n"
        (tmp_path / f"part-{number}.jsonl.gz").write_bytes(gzip.compress(text.encode()))
    assert prompts(read(tmp_path / "part-*.jsonl.gz")) == ["p0", "p1"]


def test_a_pattern_over_several_splits_gives_the_asked_one_and_over_one_split_that_one(tmp_path):
    write(tmp_path, **{"train-0": "jsonl", "test-0": "jsonl", "test-1": "jsonl"})
    assert prompts(read(tmp_path / "*.jsonl")) == ["p0"]
    assert prompts(read(tmp_path / "*.jsonl", split="test")) == ["p1", "p2"]
    assert prompts(read(tmp_path / "test-*.jsonl")) == ["p1", "p2"]
    with pytest.raises(BadInput, match=r"splits \['test'\]; expected 'validation'"):
        read(tmp_path / "test-*.jsonl", split="validation")


def test_the_format_of_a_pattern_without_an_ending_is_named(tmp_path):
    for number in (0, 1):
        (tmp_path / f"part-{number}").write_text(json.dumps(row(number)) + "\n")
    with pytest.raises(BadInput, match=r'part-\* holds files of no format.*format = "jsonl"'):
        read(tmp_path / "part-*")
    assert prompts(read(tmp_path / "part-*", format="jsonl")) == ["p0", "p1"]

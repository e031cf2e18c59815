"""Text files of any compression and encoding that says itself; what is no text is named."""

import bz2
import codecs
import gzip
import json
import lzma

import pyarrow as pa
import pytest

from rlhf_core.config import Source
from rlhf_core.data.read import read_source
from rlhf_core.errors import BadInput

ROWS = [{"prompt": "ünï", "response": "a\tb"}, {"prompt": "3", "response": "4"}]
JSONL = "".join(json.dumps(row) + "\n" for row in ROWS).encode()
COMPRESS = {
    "gz": gzip.compress,
    "zst": lambda data: pa.compress(data, codec="zstd", asbytes=True),
    "bz2": bz2.compress,
    "xz": lzma.compress,
}


def read(path, **options):
    return read_source("demonstrations", Source(path=str(path), **options), path)


def content(rows):
    return [row for _, row in rows]


@pytest.mark.parametrize("ending", COMPRESS)
def test_compressed_text_is_read_by_its_name_and_by_its_bytes(ending, tmp_path):
    texts = {
        "jsonl": JSONL,
        "json": json.dumps(ROWS).encode(),
        "csv": 'prompt,response\nünï,"a\tb"\n3,4\n'.encode(),
        "tsv": 'prompt\tresponse\nünï\t"a\tb"\n3\t4\n'.encode(),
    }
    for kind, text in texts.items():
        file = tmp_path / f"a.{kind}.{ending}"
        file.write_bytes(COMPRESS[ending](text))
        assert content(read(file)) == ROWS
    other = tmp_path / "rows.dat"
    other.write_bytes(COMPRESS[ending](JSONL))
    assert content(read(other, format="jsonl")) == ROWS


@pytest.mark.parametrize("ending", COMPRESS)
def test_a_compressed_file_that_was_cut_off_is_refused(ending, tmp_path):
    file = tmp_path / f"a.jsonl.{ending}"
    file.write_bytes(COMPRESS[ending](JSONL * 50)[:-9])
    with pytest.raises(BadInput, match=r"a\.jsonl\.\w+ is not complete \w+ data"):
        read(file)


def test_a_text_without_rows_behind_a_compression_is_refused_by_its_name(tmp_path):
    (tmp_path / "a.gz").write_bytes(gzip.compress(JSONL))
    with pytest.raises(BadInput, match=r"ends with '\.gz'; expected one of .*\.tsv.*\.gz, \.zst"):
        read(tmp_path / "a.gz")


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32", "utf-8-sig"])
def test_a_byte_order_mark_says_the_encoding(encoding, tmp_path):
    (tmp_path / "a.jsonl").write_bytes(JSONL.decode().encode(encoding))
    assert content(read(tmp_path / "a.jsonl")) == ROWS


def test_a_csv_text_may_be_longer_than_the_librarys_limit(tmp_path):
    long = "x" * 200_000
    (tmp_path / "a.csv").write_text(f"prompt,response\nWhy?,{long}\n")
    assert content(read(tmp_path / "a.csv")) == [{"prompt": "Why?", "response": long}]


@pytest.mark.parametrize(
    ("start", "what"),
    [
        (b"PK\x03\x04", "a zip archive or a workbook"),
        (b"\xd0\xcf\x11\xe0", "a workbook of Excel"),
        (b"PAR1", "a Parquet file"),
        (b"SQLite format 3\0", "an SQLite database"),
        (b"a" * 257 + b"ustar", "a tar archive"),
    ],
)
def test_a_file_that_holds_no_text_is_named_for_what_it_is(start, what, tmp_path):
    (tmp_path / "a.jsonl").write_bytes(start + b"\xff\xfe rest")
    with pytest.raises(BadInput, match=rf"a\.jsonl is {what}; expected text"):
        read(tmp_path / "a.jsonl")


@pytest.mark.parametrize(
    ("header", "kind", "what"),
    [
        ("prompt;response", "csv", "semicolons"),
        ("prompt\tresponse", "csv", "tabs"),
        ("prompt,response", "tsv", "commas"),
    ],
)
def test_another_separator_is_named(header, kind, what, tmp_path):
    (tmp_path / f"a.{kind}").write_text(f"{header}\n{header}\n")
    with pytest.raises(BadInput, match=rf"line 1: one column, .* with {what} in its name"):
        read(tmp_path / f"a.{kind}")


def test_lines_that_end_as_on_windows_are_read(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(JSONL.replace(b"\n", b"\r\n"))
    (tmp_path / "a.csv").write_bytes("prompt,response\r\nünï,a\tb\r\n3,4\r\n".encode("utf-8-sig"))
    assert content(read(tmp_path / "a.jsonl")) == content(read(tmp_path / "a.csv")) == ROWS


def test_a_bad_byte_deep_in_a_file_has_its_line_and_a_limit_reads_no_further(tmp_path):
    good = json.dumps(ROWS[0]).encode() + b"\n"
    (tmp_path / "a.jsonl").write_bytes(
        codecs.BOM_UTF8 + good * 3000 + b'{"prompt": "\xff"}\n' + good
    )
    with pytest.raises(BadInput, match=r"a\.jsonl line 3001 is not UTF-8 \(byte 0xff\)"):
        read(tmp_path / "a.jsonl")
    rows = read(tmp_path / "a.jsonl", limit=3000)
    assert list(rows.lines) == list(range(1, 3001)) and rows.row(2999) == ROWS[0]

"""Read JSONL, JSON, CSV and TSV files, also compressed, with the line of each row."""

import bz2
import codecs
import csv
import gzip
import io
import json
import lzma
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa

from rlhf_core.errors import BadInput

NumberedRows = list[tuple[int, dict]]


def _zstd(data: bytes) -> bytes:
    return pa.CompressedInputStream(pa.BufferReader(data), "zstd").read()


# by the first bytes of a file, whatever its name says
_COMPRESSIONS: dict[bytes, tuple[str, Callable[[bytes], bytes]]] = {
    b"\x1f\x8b": ("gzip", gzip.decompress),
    b"\x28\xb5\x2f\xfd": ("zstd", _zstd),
    b"BZh": ("bzip2", bz2.decompress),
    b"\xfd7zXZ": ("xz", lzma.decompress),
}
_BROKEN = (OSError, EOFError, ValueError, zlib.error, lzma.LZMAError, pa.ArrowException)
# first bytes of files that hold no text, what they are, and what to do
_NAME_IT = 'name its format: {path = "...", format = "%s"}'
_NOT_TEXT = {
    b"PK\x03\x04": ("a zip archive or a workbook", "unpack it, or save its sheet as CSV in UTF-8"),
    b"\xd0\xcf\x11\xe0": ("a workbook of Excel", "save its sheet as CSV in UTF-8"),
    b"PAR1": ("a Parquet file", _NAME_IT % "parquet"),
    b"ARROW1": ("an Arrow file", _NAME_IT % "arrow"),
    b"\x89HDF": ("an HDF5 file", "write its rows as JSONL or Parquet"),
    b"SQLite format 3": ("an SQLite database", "write its rows as JSONL or Parquet"),
}
_TAR = slice(257, 262)  # where a tar archive says that it is one
_BYTE_ORDER_MARKS = {  # the longer one first, because it begins as the shorter one does
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


def read_text(path: Path) -> str:
    """Return the text of a UTF-8 file, or of one whose byte order mark says UTF-16 or UTF-32.

    A file that is compressed by gzip, zstd, bzip2 or xz is decompressed.
    Raises BadInput with the line for bytes that are no text.
    """
    data = _decompressed(path)
    if data[_TAR] == b"ustar":
        raise BadInput(f"{path} is a tar archive; expected text. Please unpack it.")
    for start, (what, do) in _NOT_TEXT.items():
        if data.startswith(start):
            raise BadInput(f"{path} is {what}; expected text. Please {do}.")
    marks = (encoding for mark, encoding in _BYTE_ORDER_MARKS.items() if data.startswith(mark))
    encoding = next(marks, "utf-8-sig")
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        name = encoding.removesuffix("-sig").upper()
        line = data.count(b"\n", 0, error.start) + 1
        raise BadInput(
            f"{path} line {line} is not {name} (byte 0x{data[error.start]:02x}); expected UTF-8"
            " text. Convert the file, e.g. `iconv -f WINDOWS-1252 -t UTF-8`."
        ) from None


def _decompressed(path: Path) -> bytes:
    data = path.read_bytes()
    for start, (name, decompress) in _COMPRESSIONS.items():
        if data.startswith(start):
            try:
                return decompress(data)
            except _BROKEN as error:
                raise BadInput(
                    f"{path} is not complete {name} data ({error}); expected a whole file. Copy or"
                    " download it again."
                ) from None
    return data


_SEPARATORS = {";": "semicolons", "\t": "tabs", ",": "commas", "|": "bars"}


def _bad_line(path: Path, line: int, found: str, expected: str) -> BadInput:
    return BadInput(f"{path} line {line}: {found}; expected {expected}. Correct or remove it.")


def _loads(text: str) -> object:
    # NaN and Infinity are not JSON: a missing value
    value = json.loads(text, parse_constant=lambda _: None)
    if "\\u" in text:
        json.dumps(value, ensure_ascii=False).encode()  # half a surrogate pair has no UTF-8
    return value


def read_jsonl(path: Path, limit: int | None) -> NumberedRows:
    """Return the objects of a JSON Lines file with their lines; blank lines are left out."""
    rows: NumberedRows = []
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if limit is not None and len(rows) == limit:
            break
        if not line.strip():
            continue
        try:
            row = _loads(line)
        except (ValueError, RecursionError) as error:
            raise _bad_line(
                path, number, f"not JSON ({error}): {line[:60]!r}", "one JSON object a line"
            ) from None
        if not isinstance(row, dict):
            raise _bad_line(
                path,
                number,
                f"a JSON {type(row).__name__}: {line[:60]!r}",
                "one JSON object a line (a list of objects is format 'json')",
            )
        rows.append((number, row))
    return rows


def read_json(path: Path, limit: int | None) -> NumberedRows:
    """Return the objects of a JSON list with their numbers."""
    text = read_text(path)
    try:
        value = _loads(text)
    except (ValueError, RecursionError) as error:
        line = getattr(error, "lineno", 1)
        raise _bad_line(
            path,
            line,
            f"not JSON ({error})",
            "a list of objects (one object a line is format 'jsonl')",
        ) from None
    if not isinstance(value, list):
        raise _bad_line(path, 1, f"a JSON {type(value).__name__}", "a list of objects")
    for number, row in enumerate(value[:limit], start=1):
        if not isinstance(row, dict):
            raise BadInput(
                f"{path} item {number}: a JSON {type(row).__name__}; expected an object. Correct or"
                " remove it."
            )
    return list(enumerate(value[:limit], start=1))


def read_csv(path: Path, limit: int | None) -> NumberedRows:
    """Return the rows of a CSV file with their first lines; all values are text.

    'NA' and '12' are text too, because a CSV file has no types and no nulls.
    """
    return _read_separated(path, limit, ",", "comma-separated values, text with commas")


def read_tsv(path: Path, limit: int | None) -> NumberedRows:
    """Return the rows of a TSV file as `read_csv` does."""
    return _read_separated(path, limit, "\t", "tab-separated values, text with tabs or quotes")


def _read_separated(path: Path, limit: int | None, separator: str, expected: str) -> NumberedRows:
    csv.field_size_limit(sys.maxsize)  # the library's own limit, 128 KiB, is less than a text has
    text = io.StringIO(read_text(path), newline="")
    reader = csv.reader(text, strict=True, delimiter=separator)
    rows: NumberedRows = []
    start = 1
    try:
        header = next(reader, [])
        if other := _other_separator(header):
            raise _bad_line(
                path, 1, f"one column, {header[0]!r:.80}, with {other} in its name", expected
            )
        if len(set(header)) != len(header):
            raise _bad_line(path, 1, f"a column name twice in {header}", "different names")
        while limit is None or len(rows) < limit:
            start = reader.line_num + 1
            values = next(reader, None)
            if values is None:
                break
            if values and len(values) != len(header):
                raise _bad_line(
                    path, start, f"{len(values)} values", f"{len(header)}, as in the first line"
                )
            if values:
                rows.append((start, dict(zip(header, values, strict=True))))
    except csv.Error as error:
        raise _bad_line(path, start, f"not CSV ({error})", f"{expected} in double quotes") from None
    return rows


def _other_separator(header: list[str]) -> str | None:
    """Return the separator that a file of one column seems to have in place of the expected one."""
    if len(header) != 1:
        return None
    return next((name for mark, name in _SEPARATORS.items() if mark in header[0]), None)


READERS: dict[str, Callable[[Path, int | None], NumberedRows]] = {
    "jsonl": read_jsonl,
    "json": read_json,
    "csv": read_csv,
    "tsv": read_tsv,
}

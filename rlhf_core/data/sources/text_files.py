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
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa

from rlhf_core.errors import BadInput

NumberedRows = Iterator[tuple[int, dict]]


def _zstd(file: BinaryIO) -> io.BufferedIOBase:
    return io.BufferedReader(pa.CompressedInputStream(pa.PythonFile(file, mode="r"), "zstd"))


# by the first bytes of a file, whatever its name says
_COMPRESSIONS: dict[bytes, tuple[str, Callable[[BinaryIO], io.BufferedIOBase]]] = {
    b"\x1f\x8b": ("gzip", lambda file: gzip.GzipFile(fileobj=file)),
    b"\x28\xb5\x2f\xfd": ("zstd", _zstd),
    b"BZh": ("bzip2", bz2.BZ2File),
    b"\xfd7zXZ": ("xz", lzma.LZMAFile),
}
_BROKEN = (OSError, EOFError, ValueError, zlib.error, lzma.LZMAError, pa.ArrowException)
_HEAD = 512  # bytes at the beginning of a text that say what it is
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


def text_lines(path: Path) -> Iterator[str]:
    """Yield the lines of a text file with their line breaks; only the current one is in memory.

    The text is UTF-8, or what its byte order mark says: UTF-16 or UTF-32, which are read whole. A
    file that is compressed by gzip, zstd, bzip2 or xz is decompressed.
    Raises BadInput with the line for bytes that are no text.
    """
    lines = _byte_lines(path)
    head = next(lines, b"")
    _require_text(path, head)
    marks = (encoding for mark, encoding in _BYTE_ORDER_MARKS.items() if head.startswith(mark))
    if (encoding := next(marks, "utf-8")) != "utf-8":
        text = _decoded(path, b"".join([head, *lines]), encoding, line=1)
        yield from io.StringIO(text, newline="\n")
        return
    first_lines = io.BytesIO(head.removeprefix(codecs.BOM_UTF8))
    for number, line in enumerate(chain(first_lines, lines), start=1):
        yield _decoded(path, line, encoding, line=number)


def _require_text(path: Path, head: bytes) -> None:
    """Raise BadInput for a file whose first bytes say that it holds no text."""
    if head[_TAR] == b"ustar":
        raise BadInput(f"{path} is a tar archive; expected text. Please unpack it.")
    for start, (what, do) in _NOT_TEXT.items():
        if head.startswith(start):
            raise BadInput(f"{path} is {what}; expected text. Please {do}.")


def _decoded(path: Path, data: bytes, encoding: str, *, line: int) -> str:
    """Return the text of bytes. line: that of the first byte, for the message."""
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        place = line + data.count(b"\n", 0, error.start)
        raise BadInput(
            f"{path} line {place} is not {encoding.upper()} (byte 0x{data[error.start]:02x});"
            " expected UTF-8 text. Convert the file, e.g. `iconv -f WINDOWS-1252 -t UTF-8`."
        ) from None


def _byte_lines(path: Path) -> Iterator[bytes]:
    """Yield the beginning of a file up to a line break, then each line, decompressed."""
    with path.open("rb") as file:
        start = file.read(_HEAD)
        file.seek(0)
        known = (found for mark, found in _COMPRESSIONS.items() if start.startswith(mark))
        name, decompress = next(known, ("", lambda plain: plain))
        try:
            content = decompress(file)
            yield content.read(_HEAD) + content.readline()
            yield from content
        except _BROKEN as error:
            if not name:
                raise
            raise BadInput(
                f"{path} is not complete {name} data ({error}); expected a whole file. Copy or"
                " download it again."
            ) from None


_SEPARATORS = {";": "semicolons", "\t": "tabs", ",": "commas", "|": "bars"}


def _bad_line(path: Path, line: int, found: str, expected: str) -> BadInput:
    return BadInput(f"{path} line {line}: {found}; expected {expected}. Correct or remove it.")


def loads(text: str) -> object:
    """Return the value of a JSON text. Raises ValueError for text that is not JSON."""
    # NaN and Infinity are not JSON: a missing value
    value = json.loads(text, parse_constant=lambda _: None)
    if "\\u" in text:
        json.dumps(value, ensure_ascii=False).encode()  # half a surrogate pair has no UTF-8
    return value


def read_jsonl(path: Path) -> NumberedRows:
    """Yield the objects of a JSON Lines file with their lines; blank lines are left out."""
    for number, line in enumerate(text_lines(path), start=1):
        if not line.strip():
            continue
        line = line.removesuffix("\n")
        try:
            row = loads(line)
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
        yield number, row


def read_json(path: Path) -> NumberedRows:
    """Yield the objects of a JSON list with their numbers; the file is in memory as a whole."""
    try:
        value = loads("".join(text_lines(path)))
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
    for number, row in enumerate(value, start=1):
        if not isinstance(row, dict):
            raise BadInput(
                f"{path} item {number}: a JSON {type(row).__name__}; expected an object. Correct or"
                " remove it."
            )
        yield number, row


def read_csv(path: Path) -> NumberedRows:
    """Yield the rows of a CSV file with their first lines; all values are text.

    'NA' and '12' are text too, because a CSV file has no types and no nulls.
    """
    return _read_separated(path, ",", "comma-separated values, text with commas")


def read_tsv(path: Path) -> NumberedRows:
    """Yield the rows of a TSV file as `read_csv` does."""
    return _read_separated(path, "\t", "tab-separated values, text with tabs or quotes")


def _read_separated(path: Path, separator: str, expected: str) -> NumberedRows:
    csv.field_size_limit(sys.maxsize)  # the library's own limit, 128 KiB, is less than a text has
    text = io.StringIO("".join(text_lines(path)), newline="")
    reader = csv.reader(text, strict=True, delimiter=separator)
    start = 1
    try:
        header = next(reader, [])
        if other := _other_separator(header):
            raise _bad_line(
                path, 1, f"one column, {header[0]!r:.80}, with {other} in its name", expected
            )
        if len(set(header)) != len(header):
            raise _bad_line(path, 1, f"a column name twice in {header}", "different names")
        start = reader.line_num + 1
        for values in reader:
            if values and len(values) != len(header):
                raise _bad_line(
                    path, start, f"{len(values)} values", f"{len(header)}, as in the first line"
                )
            if values:
                yield start, dict(zip(header, values, strict=True))
            start = reader.line_num + 1
    except csv.Error as error:
        raise _bad_line(path, start, f"not CSV ({error})", f"{expected} in double quotes") from None


def _other_separator(header: list[str]) -> str | None:
    """Return the separator that a file of one column seems to have in place of the expected one."""
    if len(header) != 1:
        return None
    return next((name for mark, name in _SEPARATORS.items() if mark in header[0]), None)


READERS: dict[str, Callable[[Path], NumberedRows]] = {
    "jsonl": read_jsonl,
    "json": read_json,
    "csv": read_csv,
    "tsv": read_tsv,
}

"""Read a source of any supported format into a `datasets.Dataset`, with the line of each row."""

import csv
import io
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
from datasets import Dataset, DatasetDict, load_dataset, load_from_disk
from datasets.table import InMemoryTable

from rlhf_core.config import Source
from rlhf_core.errors import BadInput, StageFailed

FORMATS = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".csv": "csv",
    ".parquet": "parquet",
    ".arrow": "arrow",
}


@dataclass(frozen=True)
class Rows:
    """A source's rows in their order.

    lines[i]: the 1-based line (JSONL, CSV) or row of table[i].
    as_json: columns of mixed types, which the table holds as JSON text.
    """

    source: str
    file: str
    table: Dataset
    lines: list[int]
    as_json: frozenset[str] = frozenset()

    def __iter__(self) -> Iterator[tuple[int, dict]]:
        """Yield (line, row); columns of mixed types have the types that they had in the file."""
        for line, row in zip(self.lines, self.table.data.to_pylist(), strict=True):
            yield (
                line,
                {
                    k: json.loads(v) if k in self.as_json and v is not None else v
                    for k, v in row.items()
                },
            )


def read_source(name: str, source: Source, path: Path | None) -> Rows:
    """Read the source called `name` (e.g. "comparisons"); `path` None: a hub name.

    Raises BadInput naming file and line when it cannot be read, is not UTF-8 or has no rows;
    StageFailed when the hub cannot be reached.
    """
    kind = _format(name, source, path)
    if path is None or kind == "hub":
        rows = _from_table(name, source.path, _load_hub(name, source))
    elif kind in _READERS:
        numbered = _READERS[kind](path, source.limit)
        rows = _from_records(name, path, numbered[: source.limit])
    else:
        rows = _from_table(name, source.path, _load_arrow(name, source, path, kind))
    rows = _limited(rows, source.limit)
    if not rows.lines:
        raise BadInput(
            f"{name}: {rows.file} has no rows; expected at least one. Check the path and how it was"
            " exported."
        )
    return rows


def _format(name: str, source: Source, path: Path | None) -> str:
    if path is None:
        if (
            source.format not in ("auto", "hub")
            or Path(source.path).suffix in FORMATS
            or source.path.startswith("/")
        ):
            raise BadInput(
                f"{name}: {source.path} does not exist; expected a file or folder. Check the"
                " recipe's path."
            )
        return "hub"
    if source.format != "auto":
        return source.format
    if path.is_dir():
        return "saved"
    if path.suffix.lower() not in FORMATS:
        raise BadInput(
            f"{name}: {path} ends with {path.suffix!r}; expected one of {', '.join(FORMATS)} or a"
            ' folder. Name the format: {path = "...", format = "jsonl"}.'
        )
    return FORMATS[path.suffix.lower()]


def _text(path: Path) -> str:
    data = path.read_bytes()
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise BadInput(
            f"{path} line {line} is not UTF-8 (byte 0x{data[error.start]:02x}); expected UTF-8"
            " text. Convert the file, e.g. `iconv -f WINDOWS-1252 -t UTF-8`."
        ) from None


def _bad_line(path: Path, line: int, found: str, expected: str) -> BadInput:
    return BadInput(f"{path} line {line}: {found}; expected {expected}. Correct or remove it.")


def _loads(text: str) -> object:
    # NaN and Infinity are not JSON: a missing value
    value = json.loads(text, parse_constant=lambda _: None)
    if "\\u" in text:
        json.dumps(value, ensure_ascii=False).encode()  # half a surrogate pair has no UTF-8
    return value


def _read_jsonl(path: Path, limit: int | None) -> list[tuple[int, dict]]:
    rows: list[tuple[int, dict]] = []
    for number, line in enumerate(_text(path).split("\n"), start=1):
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
                "one JSON object a line",
            )
        rows.append((number, row))
    return rows


def _read_json(path: Path, limit: int | None) -> list[tuple[int, dict]]:
    text = _text(path)
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


def _read_csv(path: Path, limit: int | None) -> list[tuple[int, dict]]:
    """Read every value as text, also 'NA' and '12': a CSV file has no types and no nulls."""
    reader = csv.reader(io.StringIO(_text(path), newline=""), strict=True)
    rows: list[tuple[int, dict]] = []
    start = 1
    try:
        header = next(reader, [])
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
        raise _bad_line(
            path,
            start,
            f"not CSV ({error})",
            "comma-separated values, text with commas in double quotes",
        ) from None
    return rows


_READERS: dict[str, Callable[[Path, int | None], list[tuple[int, dict]]]] = {
    "jsonl": _read_jsonl,
    "json": _read_json,
    "csv": _read_csv,
}


def _from_records(name: str, path: Path, numbered: list[tuple[int, dict]]) -> Rows:
    columns = list(dict.fromkeys(key for _, row in numbered for key in row))
    arrays, as_json = {}, set()
    for column in columns:
        values = [row.get(column) for _, row in numbered]
        try:
            arrays[column] = pa.array(values)
            exact = (
                not pa.types.is_nested(arrays[column].type) or arrays[column].to_pylist() == values
            )
        except (pa.ArrowException, OverflowError, TypeError, ValueError):
            exact = False
        # Arrow columns have one type; rows of another type are left to the rules
        if not exact:
            as_json.add(column)
            arrays[column] = pa.array(
                [None if value is None else json.dumps(value) for value in values]
            )
    table = Dataset(InMemoryTable(pa.table(arrays)))
    return Rows(name, str(path), table, [line for line, _ in numbered], frozenset(as_json))


def _from_table(name: str, file: str, table: Dataset) -> Rows:
    return Rows(name, file, table, list(range(1, len(table) + 1)))


def _limited(rows: Rows, limit: int | None) -> Rows:
    if limit is None or len(rows.lines) <= limit:
        return rows
    table = Dataset(InMemoryTable(rows.table.data.table.slice(0, limit)))
    return Rows(rows.source, rows.file, table, rows.lines[:limit], rows.as_json)


def _load_arrow(name: str, source: Source, path: Path, kind: str) -> Dataset:
    try:
        if kind == "parquet":
            return Dataset(InMemoryTable(pyarrow.parquet.read_table(path)))
        if kind == "arrow":
            return _read_arrow(path)
        return _pick_split(name, source, load_from_disk(str(path)))
    except BadInput:
        raise
    except Exception as error:  # whatever pyarrow and datasets raise on bytes that are not theirs
        raise BadInput(
            f"{name}: {path} cannot be read as {kind} ({type(error).__name__}: {error}); expected a"
            f" complete {kind} file or folder. Write it again."
        ) from error


def _read_arrow(path: Path) -> Dataset:
    with pa.memory_map(str(path)) as file:
        try:
            return Dataset(InMemoryTable(pa.ipc.open_stream(file).read_all()))
        except pa.ArrowInvalid:
            # not the stream format that `datasets` writes: the file format (Feather)
            file.seek(0)
            return Dataset(InMemoryTable(pa.ipc.open_file(file).read_all()))


def _pick_split(name: str, source: Source, found: Dataset | DatasetDict) -> Dataset:
    if not isinstance(found, DatasetDict):
        return found.flatten_indices(keep_in_memory=True) if found._indices is not None else found
    if source.split not in found:
        raise BadInput(
            f"{name}: {source.path} has the splits {sorted(found)}; expected {source.split!r}. "
            'Name one: {path = "...", split = "..."}.'
        )
    return _pick_split(name, source, found[source.split])


def _load_hub(name: str, source: Source) -> Dataset:
    try:
        return _pick_split(name, source, load_dataset(source.path, split=source.split))
    except ConnectionError as error:
        raise StageFailed(
            f"{name}: the hub could not be reached for {source.path!r}: {error}"
        ) from error
    except Exception as error:  # not found, gated, broken: datasets has a dozen kinds
        raise BadInput(
            f"{name}: {source.path!r} is neither a file here nor a hub data set that loads"
            f" ({type(error).__name__}: {error}); expected an existing path or 'owner/name'. Check"
            " the recipe's path, format and split."
        ) from error

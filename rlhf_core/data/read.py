"""Read a source of any supported format into a `datasets.Dataset`, with the line of each row."""

import json
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
from datasets import Dataset, DatasetDict, Features, load_from_disk
from datasets.table import InMemoryTable

from rlhf_core.config import Source
from rlhf_core.data.normalise import as_json_value
from rlhf_core.data.rows.store import BATCH, ArrowFile
from rlhf_core.data.sources.hub import load_hub
from rlhf_core.data.sources.readers import rows_of_reader
from rlhf_core.data.sources.shards import (
    COMPRESSED,
    FORMATS,
    format_of,
    is_saved_dataset,
    shards,
    unread_file,
)
from rlhf_core.data.sources.text_files import READERS, loads
from rlhf_core.errors import BadInput
from rlhf_core.patterns import is_pattern

_LARGEST_EXACT = 2**53  # whole number up to which a float holds each


@dataclass(frozen=True)
class Rows:
    """A source's rows in their order.

    lines[i]: the 1-based line (JSONL, CSV) or row of table[i]; in a folder or pattern of several
    files, the row over all of them in the order of their names. columns: those that occur.
    as_json: columns of types without a place in `datasets`, which the table holds as JSON text.
    is_text: the table has one column, `row`, with each row as JSON: a text file may have rows with
    different columns and types. floats: its columns in which whole numbers stand among others.
    """

    source: str
    file: str
    table: Dataset
    lines: Sequence[int]
    columns: tuple[str, ...]
    as_json: frozenset[str] = frozenset()
    is_text: bool = False
    floats: frozenset[str] = frozenset()

    def __iter__(self) -> Iterator[tuple[int, dict]]:
        """Yield (line, row); a row of a text file has the columns and types that it has there."""
        for start in range(0, len(self.lines), BATCH):
            lines = self.lines[start : start + BATCH]
            yield from zip(lines, self._read(start, len(lines)), strict=True)

    def row(self, place: int) -> dict:
        """Return one row by its place."""
        return self._read(place, 1)[0]

    def _read(self, start: int, length: int) -> list[dict]:
        rows = self.table.data.table.slice(start, length).to_pylist()
        return [self._parsed(row["row"]) if self.is_text else self._plain(row) for row in rows]

    def _parsed(self, text: str) -> dict:
        row: dict = loads(text)  # type: ignore[assignment]  # it was an object when it was read
        for column in self.floats:
            if type(row.get(column)) is int:
                row[column] = float(row[column])
        return row

    def _plain(self, row: dict) -> dict:
        for column in self.as_json:
            if row[column] is not None:
                row[column] = json.loads(row[column])
        return row


def read_source(name: str, source: Source, path: Path | None, folder: Path | None = None) -> Rows:
    """Read the source called `name` (e.g. "comparisons"); `path` None: a hub name.

    folder: place of the Arrow file that rows of text files are written to; None: in memory.
    Raises BadInput naming file and line when it cannot be read, is not UTF-8 or has no rows;
    StageFailed when the hub cannot be reached.
    """
    cache = None if folder is None else folder / f"{name}.rows.arrow"
    kind = "reader" if path and source.reader else _format(name, source, path)
    if path and source.reader:
        numbered = islice(rows_of_reader(name, source.reader, path), source.limit)
        rows = _from_rows(name, path, numbered, cache)
    elif path is None or kind == "hub":
        rows = _from_dataset(name, source.path, load_hub(name, source))
    elif kind == "saved":
        rows = _from_dataset(name, source.path, _load_saved(name, source, path))
    else:
        files = [path]
        if path.is_dir() or is_pattern(path):
            kind, files = shards(name, path, source.split, kind)
        rows = (
            _from_text(name, path, files, kind, source.limit, cache)
            if kind in READERS
            else _from_files(name, path, files, kind)
        )
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
            or format_of(Path(source.path))
            or source.path.startswith("/")
        ):
            raise BadInput(
                f"{name}: {source.path} does not exist; expected a file or folder. Check the"
                " recipe's path."
            )
        return "hub"
    if path.is_dir():
        saved = source.format == "auto" and is_saved_dataset(path)
        return "saved" if saved else source.format
    if source.format != "auto" or is_pattern(path):
        return source.format
    if (found := format_of(path)) is None:
        if other := unread_file(path):
            raise BadInput(
                f"{name}: {path} is {other}. Expected one of {', '.join(FORMATS)}, or a folder."
            )
        raise BadInput(
            f"{name}: {path} ends with {path.suffix!r}; expected one of {', '.join(FORMATS)} (text"
            f" also with {', '.join(COMPRESSED)} behind it) or a folder. Name the format: {{path ="
            ' "...", format = "jsonl"}.'
        )
    return found


def _from_files(name: str, path: Path, files: list[Path], kind: str) -> Rows:
    """Return the rows of one file, or of several as one table."""
    tables = [_load_arrow(name, file, kind) for file in files]
    try:
        table = pa.concat_tables(tables, promote_options="permissive")
    except pa.ArrowException as error:
        raise BadInput(
            f"{name}: the files of {path} have columns of different types ({error}); expected the"
            " same columns in each. Give the path of the file to read."
        ) from None
    return _from_arrow(name, str(path), table)


def _from_text(
    name: str, path: Path, files: list[Path], kind: str, limit: int | None, cache: Path | None
) -> Rows:
    """Return the rows of one text file, or of several as one table. cache: see read_source."""
    numbered = islice(chain.from_iterable(READERS[kind](file) for file in files), limit)
    rows = _from_rows(name, path, numbered, cache)
    return replace(rows, lines=range(1, len(rows.lines) + 1)) if len(files) > 1 else rows


def _from_rows(
    name: str, path: Path, numbered: Iterator[tuple[int, dict]], cache: Path | None
) -> Rows:
    """Return rows, each with its line, as one table. cache: see read_source."""
    written = ArrowFile(pa.schema([("row", pa.string())]), cache)
    lines, columns = array("q"), _ColumnTypes()
    while batch := list(islice(numbered, BATCH)):
        written.write([[json.dumps(row, ensure_ascii=False) for _, row in batch]])
        lines.extend(line for line, _ in batch)
        for _, row in batch:
            columns.add(row)
    return Rows(
        name,
        str(path),
        written.finish(),
        lines,
        tuple(columns.types),
        is_text=True,
        floats=columns.floats(),
    )


class _ColumnTypes:
    """The columns of rows in order of appearance, with the types of their values."""

    def __init__(self) -> None:
        self.types: dict[str, set[type]] = {}
        self._inexact: set[str] = set()  # with whole numbers that no float holds

    def add(self, row: dict) -> None:
        for column, value in row.items():
            self.types.setdefault(column, set()).add(type(value))
            if type(value) is int and abs(value) > _LARGEST_EXACT:
                self._inexact.add(column)

    def floats(self) -> frozenset[str]:
        """Return the columns of numbers alone, some of them fractions: all are read as such."""
        return frozenset(
            column
            for column, types in self.types.items()
            if types - {type(None)} == {int, float} and column not in self._inexact
        )


def _from_dataset(name: str, file: str, table: Dataset) -> Rows:
    return Rows(name, file, table, range(1, len(table) + 1), tuple(table.column_names))


def _from_arrow(name: str, file: str, table: pa.Table) -> Rows:
    """Return the rows of a table; columns of types that `datasets` lacks, e.g. maps, as JSON."""
    as_json = set()
    for place, field in enumerate(table.schema):
        try:
            Features.from_arrow_schema(pa.schema([field]))
        except (ValueError, TypeError, NotImplementedError):
            values = [_plain(value, field.type) for value in table.column(place).to_pylist()]
            texts = [None if v is None else json.dumps(as_json_value(v)) for v in values]
            table = table.set_column(place, field.name, pa.array(texts, pa.string()))
            as_json.add(field.name)
    rows = Dataset(InMemoryTable(table.replace_schema_metadata(None)))
    lines = range(1, len(rows) + 1)
    return Rows(name, file, rows, lines, tuple(rows.column_names), frozenset(as_json))


def _plain(value: object, kind: pa.DataType) -> object:
    return dict(value) if pa.types.is_map(kind) and isinstance(value, list) else value


def _limited(rows: Rows, limit: int | None) -> Rows:
    if limit is None or len(rows.lines) <= limit:
        return rows
    table = Dataset(InMemoryTable(rows.table.data.table.slice(0, limit)))
    return replace(rows, table=table, lines=rows.lines[:limit])


def _require_files(name: str, path: Path) -> None:
    """Raise BadInput for a folder that `datasets` has not saved and that holds no file to read."""
    if (path / "dataset_dict.json").exists() or (path / "state.json").exists():
        return
    here = sorted(item.name for item in path.iterdir() if not item.name.startswith("."))
    what = next((f" {n} is {found}." for n in here if (found := unread_file(Path(n)))), "")
    raise BadInput(
        f"{name}: {path} cannot be read as saved: it holds {', '.join(here[:5]) or 'nothing'};"
        f" expected a data set that `datasets` saved, or files that end with one of"
        f" {', '.join(FORMATS)}.{what}"
    )


def _unreadable(name: str, path: Path, kind: str, error: Exception) -> BadInput:
    return BadInput(
        f"{name}: {path} cannot be read as {kind} ({type(error).__name__}: {error}); expected a"
        f" complete {kind} file or folder. Write it again."
    )


def _load_arrow(name: str, path: Path, kind: str) -> pa.Table:
    try:
        return pyarrow.parquet.read_table(path) if kind == "parquet" else _read_arrow(path)
    except Exception as error:  # whatever pyarrow raises on bytes that are not its own
        raise _unreadable(name, path, kind, error) from error


def _load_saved(name: str, source: Source, path: Path) -> Dataset:
    _require_files(name, path)
    try:
        return _pick_split(name, source, load_from_disk(str(path)))
    except BadInput:
        raise
    except Exception as error:  # whatever datasets raises on files that are not its own
        raise _unreadable(name, path, "saved", error) from error


def _read_arrow(path: Path) -> pa.Table:
    with pa.memory_map(str(path)) as file:
        try:
            return pa.ipc.open_stream(file).read_all()
        except pa.ArrowInvalid:
            # not the stream format that `datasets` writes: the file format (Feather)
            file.seek(0)
            return pa.ipc.open_file(file).read_all()


def _pick_split(name: str, source: Source, found: Dataset | DatasetDict) -> Dataset:
    if not isinstance(found, DatasetDict):
        return found.flatten_indices(keep_in_memory=True) if found._indices is not None else found
    if source.split not in found:
        raise BadInput(
            f"{name}: {source.path} has the splits {sorted(found)}; expected {source.split!r}. "
            'Name one: {path = "...", split = "..."}.'
        )
    return _pick_split(name, source, found[source.split])

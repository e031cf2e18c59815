"""Read a source of any supported format into a `datasets.Dataset`, with the line of each row."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
from datasets import Dataset, DatasetDict, Features, load_from_disk
from datasets.table import InMemoryTable

from rlhf_core.config import Source
from rlhf_core.data.normalise import as_json_value
from rlhf_core.data.sources.hub import load_hub
from rlhf_core.data.sources.shards import (
    COMPRESSED,
    FORMATS,
    format_of,
    is_saved_dataset,
    shards,
    unread_file,
)
from rlhf_core.data.sources.text_files import READERS, NumberedRows
from rlhf_core.errors import BadInput
from rlhf_core.patterns import is_pattern


@dataclass(frozen=True)
class Rows:
    """A source's rows in their order.

    lines[i]: the 1-based line (JSONL, CSV) or row of table[i]; in a folder or pattern of several
    files, the row over all of them in the order of their names.
    as_json: columns of mixed types or of types without a place in `datasets`, which the table
    holds as JSON text.
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
        rows = _from_dataset(name, source.path, load_hub(name, source))
    elif kind == "saved":
        rows = _from_dataset(name, source.path, _load_saved(name, source, path))
    else:
        files = [path]
        if path.is_dir() or is_pattern(path):
            kind, files = shards(name, path, source.split, kind)
        rows = _from_files(name, path, files, kind, source.limit)
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


def _from_files(name: str, path: Path, files: list[Path], kind: str, limit: int | None) -> Rows:
    """Return the rows of one file, or of several as one table."""
    if kind in READERS:
        numbered: NumberedRows = []
        for file in files:
            left = None if limit is None else limit - len(numbered)
            numbered += READERS[kind](file, left)[:left]
        if len(files) > 1:
            numbered = [(row, values) for row, (_, values) in enumerate(numbered, start=1)]
        return _from_records(name, path, numbered)
    tables = [_load_arrow(name, file, kind) for file in files]
    try:
        table = pa.concat_tables(tables, promote_options="permissive")
    except pa.ArrowException as error:
        raise BadInput(
            f"{name}: the files of {path} have columns of different types ({error}); expected the"
            " same columns in each. Give the path of the file to read."
        ) from None
    return _from_arrow(name, str(path), table)


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


def _from_dataset(name: str, file: str, table: Dataset) -> Rows:
    return Rows(name, file, table, list(range(1, len(table) + 1)))


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
    return Rows(name, file, rows, list(range(1, len(rows) + 1)), frozenset(as_json))


def _plain(value: object, kind: pa.DataType) -> object:
    return dict(value) if pa.types.is_map(kind) and isinstance(value, list) else value


def _limited(rows: Rows, limit: int | None) -> Rows:
    if limit is None or len(rows.lines) <= limit:
        return rows
    table = Dataset(InMemoryTable(rows.table.data.table.slice(0, limit)))
    return Rows(rows.source, rows.file, table, rows.lines[:limit], rows.as_json)


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

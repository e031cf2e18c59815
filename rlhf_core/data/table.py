"""A source's rows between reading and splitting: each is kept, or quarantined with its reason."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from rlhf_core.config.data.section import NEW_COMPARISONS
from rlhf_core.data.columns import (
    LABELLED,
    RowKind,
    detect_format,
    rename_columns,
    require_ignored,
    unused_columns,
    without_ignored,
)
from rlhf_core.data.normalise import as_json_value, normalise
from rlhf_core.data.read import Rows
from rlhf_core.data.rows.store import BATCH, Store, StoreWriter
from rlhf_core.data.splits import is_new
from rlhf_core.data.transcripts import MISSING, RejectedRow

_NOTHING: Mapping[str, Any] = MappingProxyType({})


def _nothing() -> Mapping[str, Any]:
    return _NOTHING  # one object for all rows


@dataclass(frozen=True, slots=True)
class TableEntry:
    """One row read: what is known of it. Its texts are in the store, at `place`.

    rule: the rule that it breaks, None if it is kept. tokens: by column. split: None until it is
    assigned. notes: what rules found that quarantine nothing, by rule. root: key of the first user
    turn that the file has, None if the record still begins with it.
    """

    line: int
    store: Store
    place: int = 0
    rule: str | None = None
    reason: str | None = None
    tokens: Mapping[str, int] = field(default_factory=_nothing)
    split: str | None = None
    notes: Mapping[str, str] = field(default_factory=_nothing)
    root: str | None = None

    @property
    def row(self) -> dict:
        """The row as it was read, with canonical column names."""
        return self.store.row(self.place)

    @property
    def record(self) -> dict | None:
        """The canonical record, None if the row has no known format."""
        return self.store.record(self.place)

    @property
    def canonical(self) -> dict:
        """The canonical record. Only a row in quarantine may have none."""
        record = self.record
        assert record is not None, f"line {self.line} has no record"
        return record

    @property
    def id(self) -> str:
        """The id of the canonical record."""
        return self.store.id(self.place)

    @property
    def prompt_key(self) -> str:
        """The identity of the record's prompt (see splits.prompt_key)."""
        return self.store.prompt_key(self.place)

    @property
    def root_key(self) -> str:
        """The identity of the conversation's root in the file."""
        return self.root or self.store.root_key(self.place)

    def breaks(self, rule: str) -> bool:
        """Return True if the row is quarantined under `rule`, or noted by it."""
        return self.rule == rule or rule in self.notes

    def is_in(self, side: Literal["train", "heldout", "reserve"]) -> bool:
        """Return True if the row is in a split of that side, or in reserve."""
        return self.split is not None and self.split.endswith(f"_{side}")


@dataclass(frozen=True)
class Table:
    """A source: all its rows, in the file's order. columns: those that its texts come from."""

    name: str
    kind: RowKind
    file: str
    columns: tuple[str, ...]
    entries: list[TableEntry]

    @property
    def split_kind(self) -> str:
        """The kind of its splits: the new comparisons have splits of their own."""
        return NEW_COMPARISONS if is_new(self.name) else self.kind

    @property
    def kept(self) -> list[TableEntry]:
        """Rows that broke no rule."""
        return [entry for entry in self.entries if entry.rule is None]

    def broken(self, rule: str) -> list[TableEntry]:
        """Return the rows quarantined under `rule`, or noted by it."""
        return [entry for entry in self.entries if entry.breaks(rule)]

    def note(self, rule: str, reasons: dict[int, str]) -> "Table":
        """Return a table in which rows are noted under `rule`; reasons: by position."""
        if not reasons:
            return self
        return self.with_entries(
            replace(entry, notes={**entry.notes, rule: reasons[i]}) if i in reasons else entry
            for i, entry in enumerate(self.entries)
        )

    def quarantine(self, rule: str, reasons: dict[int, str]) -> "Table":
        """Return a table in which kept rows with a reason are quarantined under `rule`.

        reasons: by position in `entries`.
        """
        if not reasons:
            return self
        return self.with_entries(
            replace(entry, rule=rule, reason=reasons[i], split=None)
            if entry.rule is None and i in reasons
            else entry
            for i, entry in enumerate(self.entries)
        )

    def assigned(self, split_of: Callable[[TableEntry], str]) -> "Table":
        """Return a table whose kept rows are in splits."""
        return self.with_entries(
            replace(entry, split=split_of(entry)) if entry.rule is None else entry
            for entry in self.entries
        )

    def with_entries(self, entries: Iterable[TableEntry]) -> "Table":
        """Return the same source with other entries, the same number of them."""
        new = list(entries)
        assert len(new) == len(self.entries), (
            f"{self.name}: {len(self.entries)} rows became {len(new)}"
        )
        return replace(self, entries=new)

    def quarantined(self) -> Iterator[dict]:
        """Yield one {"source", "file", "line", "rule", "reason", "row"} per quarantined row."""
        for e in self.entries:
            if e.rule is not None:
                yield {
                    "source": self.name,
                    "file": self.file,
                    "line": e.line,
                    "rule": e.rule,
                    "reason": e.reason,
                    "row": as_json_value(e.row),
                }


def build_table(
    rows: Rows,
    kind: RowKind,
    mapping: dict[str, str],
    *,
    ignored: Sequence[str] = (),
    needed: Sequence[str] = (),
    folder: Path | None = None,
) -> Table:
    """Normalise every row, and quarantine the rows that cannot be normalised.

    ignored: columns, and keys of messages, to leave out. needed: columns that a later stage reads.
    folder: place of the Arrow file that records are written to; None: in memory.
    Rows with texts in other columns are noted under 'unused_columns'.
    Raises BadInput if the columns fit no format, or an ignored one is not there.
    """
    require_ignored(rows.source, rows.columns, rows, ignored)
    there = [column for column in rows.columns if column not in ignored]
    names = rename_columns(rows.source, there, mapping)
    columns = detect_format(rows.source, kind, sorted(names.values()))
    reader = _Reader(kind, columns, names, tuple(ignored), frozenset(needed))
    file = None if folder is None else folder / f"{rows.source}.records.arrow"
    writer = StoreWriter(columns, pairs=kind in LABELLED, file=file)
    found: list[_Finding] = []
    for place, (_, raw) in enumerate(rows, start=1):
        found.append(reader.read(raw, writer))
        if place % BATCH == 0:
            writer.end_batch()
    writer.end_batch()
    store = writer.finish(lambda place: reader.renamed(rows.row(place)))
    entries = [
        TableEntry(line, store, place, rule, reason, notes=notes)
        for place, (line, (rule, reason, notes)) in enumerate(zip(rows.lines, found, strict=True))
    ]
    return Table(rows.source, kind, rows.file, columns, entries)


_Finding = tuple[str | None, str | None, Mapping[str, str]]  # rule, reason, notes
_GOOD: _Finding = (None, None, _NOTHING)


@dataclass(frozen=True)
class _Reader:
    """Reads the rows of a source. names: canonical names by those in the file."""

    kind: RowKind
    columns: tuple[str, ...]
    names: dict[str, str]
    ignored: tuple[str, ...]
    needed: frozenset[str]

    def renamed(self, raw: dict) -> dict:
        """Return a row with canonical column names and without the ignored ones."""
        return {self.names[c]: v for c, v in without_ignored(raw, self.ignored).items()}

    def read(self, raw: dict, writer: StoreWriter) -> _Finding:
        """Write the record of a row, and return the rule that it breaks, the reason and notes."""
        row = self.renamed(raw)
        whole = dict.fromkeys(self.columns, MISSING) | row
        try:
            record = normalise(self.kind, self.columns, whole)
        except RejectedRow as rejected:
            writer.add(row, None)
            return rejected.rule, rejected.reason, _NOTHING
        writer.add(row, record)
        unused = unused_columns(self.kind, self.columns, whole, record)
        if not (unread := [c for c in unused if c not in self.needed]):
            return _GOOD
        written = {name: column for column, name in self.names.items()}  # as the file has them
        names_found = ", ".join(repr(written.get(column, column)) for column in unread)
        return None, None, {"unused_columns": f"no stage reads {names_found}"}

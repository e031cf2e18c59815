"""A source's rows between reading and splitting: each is kept, or quarantined with its reason."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from rlhf_core.data.columns import (
    RowKind,
    detect_format,
    rename_columns,
    require_ignored,
    unused_columns,
    without_ignored,
)
from rlhf_core.data.normalise import as_json_value, normalise
from rlhf_core.data.read import Rows
from rlhf_core.data.transcripts import RejectedRow


@dataclass(frozen=True)
class TableEntry:
    """One row read.

    record: the canonical record, None if the row has no known format. rule: the rule that it
    breaks, None if it is kept. tokens: by column. split: None until it is assigned. notes: what
    rules found that quarantine nothing, by rule. root: key of the first user turn that the file
    has, None if the record still begins with it.
    """

    line: int
    row: dict
    record: dict | None
    rule: str | None = None
    reason: str | None = None
    tokens: dict[str, int] = field(default_factory=dict)
    split: str | None = None
    notes: dict[str, str] = field(default_factory=dict)
    root: str | None = None

    @property
    def canonical(self) -> dict:
        """The canonical record. Only a row in quarantine may have none."""
        assert self.record is not None, f"line {self.line} has no record"
        return self.record

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
    def kept(self) -> list[TableEntry]:
        """Rows that broke no rule."""
        return [entry for entry in self.entries if entry.rule is None]

    def broken(self, rule: str) -> list[TableEntry]:
        """Return the rows quarantined under `rule`, or noted by it."""
        return [entry for entry in self.entries if entry.breaks(rule)]

    def note(self, rule: str, reasons: dict[int, str]) -> "Table":
        """Return a table in which rows are noted under `rule`; reasons: by position."""
        return self.with_entries(
            replace(entry, notes=entry.notes | {rule: reasons[i]}) if i in reasons else entry
            for i, entry in enumerate(self.entries)
        )

    def quarantine(self, rule: str, reasons: dict[int, str]) -> "Table":
        """Return a table in which kept rows with a reason are quarantined under `rule`.

        reasons: by position in `entries`.
        """
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

    def quarantined(self) -> list[dict]:
        """Return one {"source", "file", "line", "rule", "reason", "row"} per quarantined row."""
        return [
            {
                "source": self.name,
                "file": self.file,
                "line": e.line,
                "rule": e.rule,
                "reason": e.reason,
                "row": as_json_value(e.row),
            }
            for e in self.entries
            if e.rule is not None
        ]


def build_table(
    rows: Rows,
    kind: RowKind,
    mapping: dict[str, str],
    *,
    ignored: Sequence[str] = (),
    needed: Sequence[str] = (),
) -> Table:
    """Normalise every row, and quarantine the rows that cannot be normalised.

    ignored: columns, and keys of messages, to leave out. needed: columns that a later stage reads.
    Rows with texts in other columns are noted under 'unused_columns'.
    Raises BadInput if the columns fit no format, or an ignored one is not there.
    """
    read = list(rows)
    require_ignored(rows.source, rows.table.column_names, [row for _, row in read], ignored)
    there = [column for column in rows.table.column_names if column not in ignored]
    names = rename_columns(rows.source, there, mapping)
    columns = detect_format(rows.source, kind, sorted(names.values()))
    written = {name: column for column, name in names.items()}  # as the file has them
    entries = []
    for line, raw in read:
        row = {names[column]: v for column, v in without_ignored(raw, ignored).items()}
        try:
            record = normalise(kind, columns, row)
        except RejectedRow as rejected:
            entries.append(TableEntry(line, row, None, rejected.rule, rejected.reason))
            continue
        unused = [c for c in unused_columns(kind, columns, row, record) if c not in needed]
        names_found = ", ".join(repr(written.get(column, column)) for column in unused)
        notes = {"unused_columns": f"no stage reads {names_found}"} if unused else {}
        entries.append(TableEntry(line, row, record, notes=notes))
    return Table(rows.source, kind, rows.file, columns, entries)

"""A source's rows on their way through the rules: each is kept, in a split, or quarantined with its
reason.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace

from rlhf_core.data.normalise import (
    RowKind,
    as_json_value,
    detect_format,
    normalise,
    rename_columns,
)
from rlhf_core.data.read import Rows
from rlhf_core.data.transcripts import RejectedRow


@dataclass(frozen=True)
class TableEntry:
    """One row read. `record` is None when it could not be read; `rule` is None as long as no rule
    broke it.
    """

    line: int
    row: dict
    record: dict | None
    rule: str | None = None
    reason: str | None = None
    tokens: dict[str, int] = field(default_factory=dict)
    split: str | None = None


@dataclass(frozen=True)
class Table:
    """A source: all its rows, in the file's order. `columns` are those its texts were read from."""

    name: str
    kind: RowKind
    file: str
    columns: tuple[str, ...]
    entries: list[TableEntry]

    @property
    def kept(self) -> list[TableEntry]:
        return [entry for entry in self.entries if entry.rule is None]

    def broken(self, rule: str) -> list[TableEntry]:
        """Rows quarantined under `rule`."""
        return [entry for entry in self.entries if entry.rule == rule]

    def quarantine(self, rule: str, reasons: dict[int, str]) -> "Table":
        """A table in which kept rows with a reason (by position in `entries`) are quarantined under
        `rule`.
        """
        return self.with_entries(
            replace(entry, rule=rule, reason=reasons[i], split=None)
            if entry.rule is None and i in reasons
            else entry
            for i, entry in enumerate(self.entries)
        )

    def assigned(self, split_of: Callable[[TableEntry], str]) -> "Table":
        """A table whose kept rows are in splits."""
        return self.with_entries(
            replace(entry, split=split_of(entry)) if entry.rule is None else entry
            for entry in self.entries
        )

    def with_entries(self, entries: Iterable[TableEntry]) -> "Table":
        """The same source with other entries; never more nor fewer of them."""
        new = list(entries)
        assert len(new) == len(self.entries), (
            f"{self.name}: {len(self.entries)} rows became {len(new)}"
        )
        return replace(self, entries=new)

    def quarantined(self) -> list[dict]:
        """One {"source", "file", "line", "rule", "reason", "row"} for each quarantined row."""
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


def build_table(rows: Rows, kind: RowKind, mapping: dict[str, str]) -> Table:
    """Normalise every row; those that cannot be are quarantined. Raises BadInput when the columns
    fit no format.
    """
    names = rename_columns(rows.source, rows.table.column_names, mapping)
    columns = detect_format(rows.source, kind, sorted(names.values()))
    entries = []
    for line, raw in rows:
        row = {names[column]: value for column, value in raw.items()}
        try:
            entries.append(TableEntry(line, row, normalise(kind, columns, row)))
        except RejectedRow as reject:
            entries.append(TableEntry(line, row, None, reject.rule, reject.reason))
    return Table(rows.source, kind, rows.file, columns, entries)

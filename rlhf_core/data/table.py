"""A source's rows between reading and splitting: each is kept, or quarantined with its reason."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Literal

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
    """One row read.

    record: the canonical record, None if the row has no known format. rule: the rule that it
    breaks, None if it is kept. tokens: by column. split: None until it is assigned.
    """

    line: int
    row: dict
    record: dict | None
    rule: str | None = None
    reason: str | None = None
    tokens: dict[str, int] = field(default_factory=dict)
    split: str | None = None

    @property
    def canonical(self) -> dict:
        """The canonical record. Only a row in quarantine may have none."""
        assert self.record is not None, f"line {self.line} has no record"
        return self.record

    def is_in(self, side: Literal["train", "heldout"]) -> bool:
        """Return True if the row is in a split of that side."""
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
        """Return the rows quarantined under `rule`."""
        return [entry for entry in self.entries if entry.rule == rule]

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


def build_table(rows: Rows, kind: RowKind, mapping: dict[str, str]) -> Table:
    """Normalise every row, and quarantine the rows that cannot be normalised.

    Raises BadInput if the columns fit no format.
    """
    names = rename_columns(rows.source, rows.table.column_names, mapping)
    columns = detect_format(rows.source, kind, sorted(names.values()))
    entries = []
    for line, raw in rows:
        row = {names[column]: value for column, value in raw.items()}
        try:
            entries.append(TableEntry(line, row, normalise(kind, columns, row)))
        except RejectedRow as rejected:
            entries.append(TableEntry(line, row, None, rejected.rule, rejected.reason))
    return Table(rows.source, kind, rows.file, columns, entries)

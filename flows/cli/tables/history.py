"""The history of a champion as a table and as JSON values."""

from rich.table import Table
from rich.text import Text

from tasks.promotion.ledger import LedgerEntry
from tasks.promotion.promotion import History

COLORS = {
    "done": "green",
    "refused": "yellow",
    "reverted": "red",
    "undone": "yellow",
    "at work": "cyan",
}
COLUMNS = ("entry", "time (UTC)", "action", "model", "version", "from", "by", "outcome")


def history_json(found: History) -> dict[str, object]:
    """Return the champion, the problems and the ledger's entries, each with its state."""
    entries = [
        entry.model_dump(mode="json", exclude={"token"}) | {"state": _state(entry)}
        for entry in found.entries
    ]
    return {
        "champion": found.champion.model_dump(mode="json"),
        "problems": found.problems,
        "entries": entries,
    }


def history_table(name: str, found: History) -> Table:
    """Return one row per entry of the ledger."""
    table = Table(title=f"Champions of {name}", title_justify="left")
    for column in COLUMNS:
        table.add_column(column, no_wrap=True)
    table.add_column("reason", overflow="fold")
    for entry in found.entries:
        cells = [
            str(entry.number),
            f"{entry.time:%Y-%m-%d %H:%M:%S}",
            entry.action,
            entry.model,
            entry.version,
            entry.expects or "-",
            entry.by,
        ]
        state = _state(entry)
        outcome = Text(state, style=COLORS.get(state, "red"))
        table.add_row(*map(Text, cells), outcome, Text(_notes(entry)))
    return table


def _state(entry: LedgerEntry) -> str:
    return entry.outcome or ("at work" if entry.is_live else "killed")


def _notes(entry: LedgerEntry) -> str:
    """Return why the entry ended as it did, and what was overridden, approved or adopted."""
    notes = [entry.outcome_reason or entry.reason]
    if entry.contest_override:
        notes.append(f"contest overridden: {entry.contest_override}")
    if entry.approved:
        notes.append(entry.approved)
    if entry.adopted:
        notes.append(f"adopted: {entry.adopted}")
    return "; ".join(filter(None, notes))

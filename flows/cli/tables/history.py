"""The history of a champion as a table and as JSON values."""

from rich.table import Table
from rich.text import Text

from tasks.promotion.audit import notes_of, state_of
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
        entry.model_dump(mode="json", exclude={"token"}) | {"state": state_of(entry)}
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
        state = state_of(entry)
        outcome = Text(state, style=COLORS.get(state, "red"))
        table.add_row(*map(Text, cells), outcome, Text(notes_of(entry)))
    return table

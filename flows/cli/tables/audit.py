"""The events of an audit as a table."""

from rich.table import Table
from rich.text import Text

from flows.report.text import counted
from tasks.promotion.audit import AuditEvent

COLUMNS = ("time (UTC)", "event", "model", "version", "by", "identity", "outcome", "evidence")


def audit_table(events: list[AuditEvent]) -> Table:
    """Return one row per event; of its evidence the digest's first digits."""
    table = Table(title=counted(len(events), "event"), title_justify="left")
    for column in COLUMNS:
        table.add_column(column, no_wrap=True)
    table.add_column("reason", overflow="fold")
    for event in events:
        cells = [
            f"{event.time:%Y-%m-%d %H:%M:%S}",
            event.event,
            event.model,
            event.version,
            event.by or "-",
            event.identity or "-",
            event.outcome,
            event.evidence[:12] or "-",
        ]
        table.add_row(*map(Text, [*cells, event.reason]))
    return table

"""`rlhf audit`: who decided what about the models of the registry."""

import csv
import sys
from dataclasses import asdict, fields
from datetime import UTC, datetime
from typing import Annotated

import typer

from flows.api.session import tracking_client
from flows.cli.options import AsJson
from flows.cli.output import console, print_json

Since = Annotated[
    datetime | None,
    typer.Option(
        formats=["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S"],
        metavar="YYYY-MM-DD[THH:MM:SS]",
        help="Leave out what was before this time (UTC)",
    ),
]
AsCsv = Annotated[bool, typer.Option("--csv", help="Print the events as CSV on standard output")]


def audit(since: Since = None, as_csv: AsCsv = False, as_json: AsJson = False) -> None:
    """List every attempt, approval, override and contest, with account and evidence.

    A ledger with an entry that was altered or deleted is named, and ends with exit code 3.
    """
    if as_csv and as_json:
        raise typer.BadParameter("--csv and --json exclude each other")
    from rlhf_core.errors import PromotionRefused
    from tasks.promotion.audit import AuditEvent
    from tasks.promotion.audit import audit as audited

    found = audited(tracking_client(), since.replace(tzinfo=UTC) if since else None)
    if as_json:
        print_json([asdict(event) for event in found.events])
    elif as_csv:
        out = csv.DictWriter(sys.stdout, [field.name for field in fields(AuditEvent)])
        out.writeheader()
        out.writerows(asdict(event) | {"time": event.time.isoformat()} for event in found.events)
    else:
        from flows.cli.tables.audit import audit_table

        console().print(audit_table(found.events))
    if found.problems:
        raise PromotionRefused(" ".join(found.problems))

"""`rlhf sync`: forward to MLflow and to the remote what they have not got yet."""

from typing import Annotated

import typer

from flows.cli.options import AsJson, Debug
from flows.cli.output import print_json
from flows.settings import quiet_libraries
from rlhf_core.errors import RLHFError

To = Annotated[
    str | None,
    typer.Option(
        "--to",
        metavar="ADDRESS",
        help="Send them to this MLflow, in place of the address that each was recorded with",
    ),
]


def sync(to: To = None, as_json: AsJson = False, debug: Debug = False) -> None:
    """Forward to MLflow, and to RLHF_REMOTE, what they missed while they were down."""
    quiet_libraries()
    from tasks.mirror.mirror import mirror_all
    from tasks.records.workspace import Workspace
    from tasks.sweeps.tracking import sync as forward_all
    from tasks.tracking.address import require_address

    if to:
        require_address(to)
    report, copied = forward_all(to=to), mirror_all(Workspace.here())
    if as_json:
        print_json(vars(report) | ({"mirror": vars(copied)} if copied else {}))
    else:
        print(f"forwarded: {', '.join(report.forwarded) or 'nothing'}")
        if copied:
            print(f"copied to {copied.address}: {', '.join(copied.mirrored) or 'nothing'}")
    if report.waiting:
        raise RLHFError(
            f"{', '.join(report.waiting)} must wait: {report.problem}. Start MLflow and run rlhf"
            " sync again. To send them to another MLflow: rlhf sync --to ADDRESS."
        )
    if copied and copied.waiting:
        raise RLHFError(
            f"{', '.join(copied.waiting)} must wait: {copied.address} did not take them"
            f" ({copied.problem}). Run rlhf sync again when it answers."
        )

"""`rlhf sync`: forward to MLflow what it has not got yet."""

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
    """Forward to MLflow what runs recorded while it was down."""
    quiet_libraries()
    from tasks.sweeps.tracking import sync as forward_all
    from tasks.tracking.address import require_address

    if to:
        require_address(to)
    report = forward_all(to=to)
    if as_json:
        print_json(vars(report))
    else:
        print(f"forwarded: {', '.join(report.forwarded) or 'nothing'}")
    if report.waiting:
        raise RLHFError(
            f"{', '.join(report.waiting)} must wait: {report.problem}. Start MLflow and run rlhf"
            " sync again. To send them to another MLflow: rlhf sync --to ADDRESS."
        )

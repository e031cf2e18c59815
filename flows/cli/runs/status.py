"""`rlhf status`: the platform and the latest runs."""

from typing import Annotated

import typer

from flows.cli.options import AsJson
from flows.cli.output import console, print_json


def status(
    limit: Annotated[int, typer.Option(min=1, help="Number of runs to show, latest first")] = 10,
    as_json: AsJson = False,
) -> None:
    """Show the platform, the latest pipeline runs and the state of their stages."""
    from flows.cli.tables.platform import service_lines
    from flows.display.status import recent, status_table
    from flows.platform import state
    from tasks.records.workspace import Workspace

    runs = recent(limit)
    if as_json:
        print_json(runs)
        return
    platform = state.read(Workspace.here())
    if platform and platform.services:
        print("\n".join(service_lines(platform)))
    if runs:
        console().print(status_table(runs))
    else:
        print("No runs here yet. Start one with: rlhf run quickstart")

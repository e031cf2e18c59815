"""`rlhf undeploy`: remove a deployment from Prefect's server."""

import json
from typing import Annotated

import typer

from flows.cli.options import AsJson
from flows.settings import quiet_libraries

Deployment = Annotated[
    str, typer.Argument(metavar="NAME", help="As in rlhf schedules: weekly, or rlhf/weekly")
]
KeepAll = Annotated[
    bool, typer.Option("--dry-run", help="Say what would be removed, and remove nothing")
]


def undeploy(name: Deployment, dry_run: KeepAll = False, as_json: AsJson = False) -> None:
    """Remove a deployment from Prefect's server, with its schedule and triggers.

    The deployment that watches its data goes with it. Runs that have begun go on; runs, models and
    the workspace stay as they are.
    """
    quiet_libraries()
    from flows.schedule.existing import undeploy as removed

    names = removed(name, dry_run=dry_run)
    if as_json:
        print(json.dumps({"dry_run": dry_run, "removed": names}))
        return
    print(f"{'would remove' if dry_run else 'removed'}: {', '.join(names)}")

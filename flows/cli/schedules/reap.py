"""`rlhf reap`: end in Prefect and MLflow the runs whose process has died."""

import json
from typing import Annotated

import typer

from flows.cli.options import AsJson
from flows.settings import quiet_libraries

Again = Annotated[
    bool, typer.Option("--again", help="Start runs of deployments once more; they resume")
]


def reap(again: Again = False, as_json: AsJson = False) -> None:
    """Mark runs whose process has died as crashed, and close their MLflow runs.

    Only runs of this workspace.
    """
    quiet_libraries()
    from flows.schedule.reap import reap as reap_runs

    done = reap_runs(again=again)
    if as_json:
        values = {"crashed": done.crashed, "again": done.again, "mlflow": vars(done.mlflow)}
        print(json.dumps(values))
        return
    print(f"crashed: {', '.join(done.crashed) or 'none'}")
    if again:
        print(f"to run again: {', '.join(done.again) or 'none'}")
    print(f"closed in MLflow: {done.mlflow}")

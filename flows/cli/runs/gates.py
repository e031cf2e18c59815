"""`rlhf gates`: what the gates of a run decided, and on which evidence."""

from typing import Annotated

import typer

from flows.cli.options import AsJson, RunName
from flows.cli.output import UNFOLDED, console, print_json, print_parts

Explain = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Show one gate in full, with its evidence and worst items: NAME or STAGE.NAME",
    ),
]


def gates(run: RunName = "latest", explain: Explain = None, as_json: AsJson = False) -> None:
    """Show every gate of a run: value, interval, samples, rule, verdict and reason.

    A run that this workspace does not have is read from MLflow's server.
    """
    from flows.api.pipeline_runs import open_run
    from flows.api.run_view import Run
    from flows.cli.tables.gates import explanation, gate_table
    from tasks.analysis.gate_report import find_run, rows
    from tasks.records.workspace import Workspace
    from tasks.tracking.account import is_server

    workspace = Workspace.here()
    opened = open_run(run) if is_server(workspace.tracking_uri) else Run(find_run(workspace, run))
    found = (
        opened.explain(explain) if explain else {"run": opened.name, "gates": rows(opened.gates)}
    )
    if as_json:
        print_json(found)
    elif explain:
        print_parts(console(UNFOLDED), explanation(found))
    elif found["gates"]:
        console(UNFOLDED).print(gate_table(found))
    else:
        print(f"No gate of {opened.name} was decided: none of its stages with a gate has finished.")

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
    """Show every gate of a run: value, interval, samples, rule, verdict and reason."""
    from flows.cli.tables.gates import explanation, gate_table
    from tasks.analysis import gate_report
    from tasks.records.workspace import Workspace

    record = gate_report.find_run(Workspace.here(), run)
    found = (
        gate_report.explain(record, explain)
        if explain
        else {"run": record.name, "gates": gate_report.rows(record)}
    )
    if as_json:
        print_json(found)
    elif explain:
        print_parts(console(UNFOLDED), explanation(found))
    elif found["gates"]:
        console(UNFOLDED).print(gate_table(found))
    else:
        print(f"No gate of {record.name} was decided: none of its stages with a gate has finished.")

"""`rlhf runs rm`: remove single runs."""

import sys
from typing import Annotated

import typer

from flows.api.removals import remove_runs
from flows.cli.options import AsJson, run_names
from flows.cli.output import print_json
from flows.report.text import counted

RunNames = Annotated[
    list[str],
    typer.Argument(
        metavar="RUN...",
        help="Names of runs (see rlhf status), or the beginnings of their ids",
        autocompletion=run_names,
    ),
]
ShowOnly = Annotated[
    bool, typer.Option("--dry-run", help="Say what would be removed, and remove nothing")
]


def runs_rm(runs: RunNames, dry_run: ShowOnly = False, as_json: AsJson = False) -> None:
    """Remove runs: record, report, MLflow runs, run directories of their own.

    A run directory that another run uses stays. A run that made a registered version, or that a
    version, a ledger entry or an unfinished sweep names, is refused, and one that goes on or that
    MLflow has not in full. MLflow marks its runs as deleted.
    """
    from flows.cli.workspace.gc import readable

    plan = remove_runs(*runs, dry_run=dry_run, say=lambda text: print(text, file=sys.stderr))
    if as_json:
        print_json(
            {
                "dry_run": dry_run,
                "runs": [record.name for record in plan.runs],
                "removed": [str(path) for path in plan.folders],
                "bytes": plan.bytes,
                "kept": {str(path): why for path, why in plan.kept.items()},
            }
        )
        return
    word = "would be removed" if dry_run else "removed"
    for record in plan.runs:
        print(f"{record.name}: record, report and MLflow runs {word}")
    print(f"{counted(len(plan.folders), 'folder')} {word}, {readable(plan.bytes)}")
    for path, why in plan.kept.items():
        print(f"    kept: {path.name}: {why}")

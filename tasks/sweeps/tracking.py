"""Record a sweep in the workspace and in MLflow, as the parent of its pipeline runs.

The folder is written while MLflow is away too; `rlhf sync` forwards it later.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from matplotlib.figure import Figure
from pydantic import ValidationError

from rlhf_core.rundir import replacing, write_atomically
from tasks.analysis.comparison import TOGETHER
from tasks.records.run_record import now, record_lock
from tasks.records.workspace import Workspace
from tasks.sweeps import figures as sweep_figures
from tasks.sweeps.findings import with_findings
from tasks.sweeps.sweep import Sweep, gather
from tasks.tracking import client as tracking
from tasks.tracking.client import brief, connect
from tasks.tracking.sync import SyncReport, present_address
from tasks.tracking.sync import sync as sync_runs

UNSENT = "unsent"  # a file in a sweep's folder while MLflow lacks its latest state


def write(workspace: Workspace, sweep: Sweep) -> list[Path]:
    """Write sweep.json and the figures into the sweep's folder; return the figures.

    `forward` brings them to MLflow.
    """
    folder = sweep.folder(workspace)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / UNSENT).touch()
    write_atomically(folder / "sweep.json", sweep.model_dump_json(indent=1))
    figures: dict[str, Figure | None] = {
        "metrics.png": sweep_figures.metrics_figure(sweep.rows, sweep.keys, sweep.metrics),
        "frontier.png": sweep_figures.frontier_figure(sweep.rows),
    }
    for name, figure in figures.items():
        if figure:
            with replacing(folder / name) as file:
                figure.savefig(file, format="png", dpi=120)
        else:
            (folder / name).unlink(missing_ok=True)
    return [folder / name for name, figure in figures.items() if figure]


def begin(workspace: Workspace, sweep: Sweep) -> str | None:
    """Open the sweep's run in MLflow before its pipeline runs. Return why that failed, else None.

    Where it failed, the pipeline runs open it later.
    """
    try:
        client = connect(sweep.tracking_uri)
        run_id = tracking.find_or_create_sweep_run(
            client,
            tracking.find_or_create_experiment(client, workspace, sweep.recipe),
            sweep.membership(),
            sweep.recipe,
        )
        client.update_run(run_id, status="RUNNING")
    except Exception as error:
        return brief(error)
    return None


def forward(workspace: Workspace, sweep: Sweep) -> Sweep:
    """Write the sweep's present state and log it to MLflow: figures, table, note, status.

    Raises the client's errors when MLflow does not answer.
    """
    client = connect(sweep.tracking_uri)
    experiment_id = tracking.find_or_create_experiment(client, workspace, sweep.recipe)
    run_id = tracking.find_or_create_sweep_run(
        client, experiment_id, sweep.membership(), sweep.recipe
    )
    page = tracking.page(sweep.tracking_uri, experiment_id, run_id)
    sweep = with_findings(workspace, gather(workspace, sweep))
    sweep = sweep.model_copy(update={"run_id": run_id, "link": page})
    figures = write(workspace, sweep)
    for file in [sweep.folder(workspace) / "sweep.json", *figures]:
        client.log_artifact(run_id, str(file))
    tags = {"mlflow.note.content": note(sweep), "sweep.runs": str(len(sweep.rows))}
    tags |= {f"sweep.{key}": ", ".join(_texts(sweep, key)) for key in sweep.keys}
    for name, value in tags.items():
        client.set_tag(run_id, name, value[:4900])
    states = {row.state for row in sweep.rows}
    status = "KILLED" if "not run" in states else "FAILED" if "failed" in states else "FINISHED"
    client.set_terminated(run_id, status, now())
    (sweep.folder(workspace) / UNSENT).unlink()
    return sweep


def _texts(sweep: Sweep, key: str) -> list[str]:
    return list(
        dict.fromkeys(sweep_figures.value_text(point.values[key]) for point in sweep.points)
    )


def note(sweep: Sweep) -> str:
    """Return the table as Markdown: the description of the sweep's run."""
    head = "| " + " | ".join([*sweep.keys, *sweep.metrics, "state", "run"]) + " |"
    lines = [head, "|" + "---|" * head.count(" | ") + "---|"]
    for row in sweep.rows:
        shown = [sweep_figures.measured_text(row.metrics.get(name)) for name in sweep.metrics]
        values = [sweep_figures.value_text(row.values[key]) for key in sweep.keys]
        run = f"[{row.run}]({row.link})" if row.link else row.run or "-"
        lines.append("| " + " | ".join([*values, *shown, row.state, run]) + " |")
    return f"**{sweep.name}**\n\n" + "\n".join([*lines, *_findings_note(sweep)])


def _findings_note(sweep: Sweep) -> Iterator[str]:
    """Yield the significant differences as lines of Markdown, with what the verdicts mean."""
    if not sweep.findings:
        return
    yield f"\nCompared with {sweep.findings[0].baseline}: {TOGETHER}\n"
    for found in sweep.findings:
        if found.verdict == "significant":
            yield (
                f"- {found.setting}: {found.metric} {found.difference:+.4g}"
                f" [{found.low:+.3g}, {found.high:+.3g}], over {found.covers}, p ="
                f" {found.p_adjusted:.2g} corrected"
            )


def sync(workspace: Workspace | None = None, *, to: str | None = None) -> SyncReport:
    """Forward the runs and sweeps that MLflow lacks, pipeline runs first.

    Never raises because of MLflow: the report names what still waits, and the problem.
    to: the address to send them to, in place of the one that each was recorded with.
    """
    workspace = workspace or Workspace.here()
    report = sync_runs(workspace, to=to)
    forwarded, waiting, problem = list(report.forwarded), list(report.waiting), report.problem
    for folder in sorted((workspace.home / "sweeps").glob(f"*/{UNSENT}")):
        with (
            record_lock(workspace, f"sweep-{folder.parent.name}") as free,
            contextlib.suppress(ValidationError, FileNotFoundError),
        ):
            if not free:  # another process makes its runs
                continue
            sweep = Sweep.model_validate_json(
                (folder.parent / "sweep.json").read_text(encoding="utf-8")
            )
            if (address := present_address(workspace, sweep.tracking_uri, to)) is not None:
                sweep = sweep.model_copy(update={"tracking_uri": address})
            try:
                forward(workspace, sweep)
                forwarded.append(sweep.name)
            except Exception as error:
                waiting.append(sweep.name)
                problem = problem or brief(error)
    return SyncReport(forwarded, waiting, problem)

"""Run a sweep: make the runs that are missing, then write table, figures and MLflow."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from flows.display.run import quiet_libraries
from flows.report.text import counted
from flows.sweeps.finding_lines import finding_lines
from flows.sweeps.grid import SweepPlan
from flows.sweeps.runs import BAD_INPUT, RunEnd, run_in_parallel, run_sequentially
from rlhf_core.errors import BadInput, RLHFError
from rlhf_core.stage_catalogue import EVALUATE
from tasks.records.run_record import record_lock
from tasks.records.workspace import Workspace
from tasks.sweeps import figures as sweep_figures
from tasks.sweeps import sweep as sweeps
from tasks.sweeps import tracking as sweep_tracking
from tasks.sweeps.findings import with_findings
from tasks.tracking.address import require_address
from tasks.tracking.client import brief

if TYPE_CHECKING:
    from pandas import DataFrame

REFUSED = 3


@dataclass
class SweepResult:
    """The end of a sweep."""

    sweep: sweeps.Sweep
    figures: list[Path]
    folder: Path
    already_done: list[str]  # labels that earlier commands had settled
    ended: dict[str, RunEnd] = field(default_factory=dict)
    problem: str | None = None  # why MLflow lacks a part of it

    @property
    def error(self) -> RLHFError | None:
        """The reason why the sweep is not complete: bad input, or runs that failed.

        None when every run finished or was refused.
        """
        bad = {label: end for label, end in self.ended.items() if end.exit_code not in (0, REFUSED)}
        for label, end in bad.items():
            if end.exit_code == BAD_INPUT:
                return BadInput(f"{label}: {end.error}")
        lines = [f"  {label}: {end.error}" for label, end in bad.items()]
        head = (
            f"{len(bad)} of {counted(len(self.sweep.points), 'run')} failed; the same command tries"
            " what failed again:"
        )
        return RLHFError("\n".join([head, *lines])) if bad else None

    def frame(self) -> "DataFrame":
        """Return a pandas frame with a row per run: its values of the keys, state and metrics."""
        import pandas

        rows = [
            row.values
            | {"run": row.run, "state": row.state}
            | {name: found.value for name, found in row.metrics.items()}
            for row in self.sweep.rows
        ]
        return pandas.DataFrame(rows)

    def as_json(self) -> dict:
        """Return the JSON values that `rlhf sweep --json` prints."""
        values = self.sweep.model_dump(mode="json")
        for row in values["rows"]:
            row["metrics"] = {name: row["metrics"].get(name) for name in self.sweep.metrics}
            row["already_done"] = row["label"] in self.already_done
        values |= {
            "metrics": self.sweep.metrics,
            "figures": list(map(str, self.figures)),
            "folder": str(self.folder),
        }
        return values | {
            "mlflow_problem": self.problem,
            "error": str(self.error) if self.error else None,
        }


def run_sweep(plan: SweepPlan, jobs: int, say: Callable[[str], None]) -> SweepResult:
    """Make the runs that are not settled yet, then write table, figures and MLflow.

    say: prints a line. Raises BadInput when another process runs the same sweep, and for an MLflow
    address that no store has.
    """
    quiet_libraries()
    workspace, sweep = Workspace.here(), plan.sweep
    require_address(sweep.tracking_uri)
    with record_lock(workspace, f"sweep-{sweep.id}") as free:
        if not free:
            raise BadInput(
                f"this very sweep, {sweep.name}, is running in another process; wait for it, or end"
                " it first."
            )
        result = SweepResult(sweep, [], sweep.folder(workspace), _settled(workspace, sweep))
        say(_announcement(sweep, result.already_done, jobs))
        labels = [label for label in plan.settings if label not in result.already_done]
        result.problem = sweep_tracking.begin(workspace, sweep)
        make_runs = run_sequentially if jobs == 1 else run_in_parallel
        try:
            for label, end in make_runs(plan, labels, jobs):
                result.ended[label] = end
                sweep_tracking.write(workspace, sweeps.gather(workspace, sweep))
        except BaseException:
            sweep_tracking.write(workspace, sweeps.gather(workspace, sweep))
            raise
        return _conclude(workspace, sweep, result)


def _settled(workspace: Workspace, sweep: sweeps.Sweep) -> list[str]:
    records = sweeps.records_of(workspace, sweep)
    seen: dict[Path, bool] = {}
    labels = [point.label for point in sweep.points]
    return [label for label in labels if sweeps.is_settled(records.get(label), seen)]


def _announcement(sweep: sweeps.Sweep, already_done: list[str], jobs: int) -> str:
    sizes = " x ".join(
        f"{len({str(point.values[key]) for point in sweep.points})} of {key}" for key in sweep.keys
    )
    text = (
        f"{sweep.name}: {counted(len(sweep.points), 'run')} ({sizes}), until {sweep.until}, {jobs}"
        " at a time"
    )
    return text + (f"; {len(already_done)} of them done earlier" if already_done else "")


def _conclude(workspace: Workspace, sweep: sweeps.Sweep, result: SweepResult) -> SweepResult:
    result.sweep = with_findings(workspace, sweeps.gather(workspace, sweep))
    try:
        sweep_tracking.sync(workspace)  # runs that began while MLflow was away
        result.sweep = sweep_tracking.forward(workspace, sweep)
        result.problem = None
    except Exception as error:
        result.problem = brief(error)
        sweep_tracking.write(workspace, result.sweep)
    result.figures = [
        file for name in ("metrics.png", "frontier.png") if (file := result.folder / name).exists()
    ]
    return result


# the printed result


def result_lines(result: SweepResult, *, full_links: bool) -> Iterator[Table | Text]:
    """Yield a table with a row per run, the paths of the figures, and how to promote a run."""
    sweep = result.sweep
    yield _table(sweep, full_links)
    yield from finding_lines(sweep)
    for file in result.figures:
        yield Text(f"Figure: {file}")
    if sweep.link:
        yield Text(f"MLflow: {sweep.link}")
    if sweep.until == EVALUATE.name and any(row.state == "finished" for row in sweep.rows):
        yield Text(
            "A sweep promotes nothing. rlhf run with --set KEY=VALUE promotes one of them and"
            " repeats nothing else."
        )
    absent = [name for name in sweep.wanted if not any(name in row.metrics for row in sweep.rows)]
    if absent:
        yield Text(f"No run has {', '.join(absent)}.", style="yellow")
    if result.problem:
        yield Text(
            f"MLflow has not all of it yet ({result.problem}); rlhf sync forwards the rest.",
            style="yellow",
        )


def _table(sweep: sweeps.Sweep, full_links: bool) -> Table:
    table = Table(title=sweep.name, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    for name in sweep.keys:
        table.add_column(name, no_wrap=True)
    for name in sweep.metrics:
        table.add_column(name.partition("/")[2].replace("_", " "), justify="right", no_wrap=True)
    table.add_column("frontier", justify="center")
    table.add_column("verdict", overflow="fold")
    table.add_column("MLflow", no_wrap=True)
    for row in sweep.rows:
        values = [sweep_figures.value_text(row.values[key]) for key in sweep.keys]
        shown = [sweep_figures.measured_text(row.metrics.get(name)) for name in sweep.metrics]
        style = {"refused": "yellow", "failed": "red"}.get(row.state)
        cells = [*values, *shown, "*" if row.on_frontier else "", _verdict(row)]
        table.add_row(*map(Text, cells), _link(row.link, full_links), style=style)
    return table


def _verdict(row: sweeps.SweepRow) -> str:
    if row.error and row.state in ("refused", "failed"):
        return f"{row.state}: {row.error.splitlines()[0]}"
    return row.verdict or row.state


def _link(link: str | None, full: bool) -> Text:
    if not link:
        return Text("-")
    return Text(link) if full else Text(link.rsplit("/", 1)[-1][:8], style=f"link {link}")

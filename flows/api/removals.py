"""Remove runs from the workspace and from MLflow."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from flows.api.arguments import run_name
from flows.api.run_view import Run
from flows.api.session import begin

if TYPE_CHECKING:
    from tasks.cleanup.single_runs import RunRemoval


def remove_runs(
    *runs: Run | str, dry_run: bool = False, say: Callable[[str], None] | None = None
) -> "RunRemoval":
    """Remove runs of this workspace, as `rlhf runs rm` does, and return what was removed.

    Record, report and MLflow runs go, and run directories that no other run uses. dry_run: remove
    nothing. say: takes a line about a store that does not answer. Raises BadInput for a run that a
    registered version, a ledger entry, an unfinished sweep or its own process needs; then nothing
    is removed.
    """
    names = [run_name("a run to remove", run) for run in runs]
    workspace = begin(writing=True)
    from tasks.analysis.gate_report import find_run
    from tasks.cleanup import single_runs

    chosen = {record.id: record for record in (find_run(workspace, name) for name in names)}
    tell = say or (lambda text: None)
    plan = single_runs.plan_removal(workspace, list(chosen.values()), tell)
    if not dry_run:
        single_runs.remove_runs(workspace, plan)
    return plan

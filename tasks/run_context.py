"""One run of the pipeline as frozen values that Prefect tasks take and return."""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from rlhf_core.config import Recipe
from rlhf_core.errors import BadInput, GateRefused
from rlhf_core.rundir import StageResult
from rlhf_core.stage_catalogue import LEARNING, PREPARE, PROMOTE, Stage, steps
from tasks.execution.ray_cluster.preflight import require_cluster
from tasks.execution.stage_calls import require_stages
from tasks.execution.stage_process import StageRun
from tasks.mirror import mirror
from tasks.promotion.rights import require_rights
from tasks.promotion.rival import models_brought
from tasks.records import events
from tasks.records.run_record import Record, record_lock
from tasks.records.workspace import Workspace
from tasks.spending.spent import prices_of
from tasks.stages.capacity import require_machine
from tasks.stages.contract import check_paths
from tasks.stages.spec import Artifacts
from tasks.tracking.client import brief, require_store
from tasks.tracking.sync import sync
from tasks.tracking.tracker import Tracker, tracker_of, tracking


class UntilReached(Exception):
    """Everything up to the step that --until names has run."""


@dataclass(frozen=True)
class RunContext:
    """The run that a task works for: its recipe, its record, and the steps that are wanted.

    brought: artifacts that no stage of the run makes and no path names, such as the reward model of
    the champion.
    """

    recipe: Recipe
    workspace: Workspace
    record_id: str
    first: str = PREPARE.name  # steps before this one are taken as recorded
    last: str = PROMOTE
    brought: Artifacts = field(default_factory=dict)

    def require_wanted(self, step: str) -> None:
        """Raise UntilReached for a step after the last one wanted."""
        if not self.is_wanted(step):
            raise UntilReached

    def is_wanted(self, step: str) -> bool:
        """Return False for a step after the last one wanted."""
        order = steps()
        return order.index(step) <= order.index(self.last)

    def is_recorded_only(self, step: str) -> bool:
        """Return True for a step that may only be taken from an earlier run."""
        order = steps()
        return order.index(step) < order.index(self.first)

    @property
    def tracker(self) -> Tracker:
        """The tracker of this run: the open one of this process, else one from the record."""
        return tracker_of(self.workspace, self.record_id)

    @property
    def record(self) -> Record:
        """The run's record as it stands."""
        return self.tracker.record


@dataclass(frozen=True)
class StageOutput:
    """The output of a stage with everything that led to it; a later stage takes it."""

    stage: Stage
    inputs: Artifacts  # by name: what its spec could be made of
    artifacts: Artifacts  # the inputs, and what the stage adds
    results: Mapping[str, StageResult]  # of this stage and of those before it, by stage
    run: StageRun | None  # None: nothing had to run


def combined(outputs: Iterable[StageOutput]) -> tuple[Artifacts, dict[str, StageResult]]:
    """Return the artifacts and the results of several outputs together."""
    artifacts: Artifacts = {}
    results: dict[str, StageResult] = {}
    for output in outputs:
        artifacts |= output.artifacts
        results |= output.results
    return artifacts, results


@contextlib.contextmanager
def opened(
    recipe: Recipe,
    name: str,
    *,
    from_stage: str | None,
    until: str | None,
    report: Callable[[RunContext], Path | None],
) -> Iterator[RunContext]:
    """Record a run under `name`, and end its record with the status that belongs to how it ended.

    report: writes the report of a run that finished, was refused or failed; one that was killed
    must end at once. Raises BadInput before anything runs.
    """
    from prefect import runtime  # only here: planning a run must not load Prefect

    workspace = Workspace.here()
    first, last = span(recipe, from_stage, until)
    along = require_runnable(recipe, workspace, first, last)
    record = Record.new(workspace, recipe, name).model_copy(
        update={"flow_run_id": runtime.flow_run.id}
    )
    context = RunContext(recipe, workspace, record.id, first, last, along)
    with record_lock(workspace, record.id), tracking(workspace, record) as tracker:
        record.save(workspace)
        sync(workspace)
        events.emit(events.RunStarted(record.id))
        write = partial(report, context)
        try:
            yield context
        except Exception as error:
            expected = isinstance(error, GateRefused | BadInput)
            tracker.end("FAILED", str(error) if expected else brief(error), write)
            _mirror(context)
            raise
        except BaseException as error:
            tracker.end("KILLED", brief(error))
            raise
        tracker.end("FINISHED", report=write)
        _mirror(context)


def require_runnable(recipe: Recipe, workspace: Workspace, first: str, last: str) -> Artifacts:
    """Check all that can refuse a run of the steps from `first` to `last` before anything runs.

    Returns the artifacts that no stage of the run makes, as of RunContext. Raises BadInput, and
    what the stores raise that are asked.
    """
    require_stages()
    require_store(workspace.tracking_uri)
    require_rights(workspace.tracking_uri, recipe.registry)
    mirror.begin(workspace)
    check_paths(recipe)
    prices_of(recipe, workspace)
    along = models_brought(recipe, workspace)
    wanted = steps()[steps().index(first) : steps().index(last) + 1]
    running = [step for step in wanted if recipe.runs(step)]
    require_machine(recipe, running)
    if set(running) & set(LEARNING):
        require_cluster(recipe.distributed, workspace.runs)
    return along


def _mirror(context: RunContext) -> None:
    """Wait until the remote has the run directories of a run that has ended, if there is one."""
    mirror.end(context.workspace, [stage.run_dir for stage in context.record.stages])


def span(recipe: Recipe, from_stage: str | None, until: str | None) -> tuple[str, str]:
    """Return the first and the last step of a run. Raises BadInput for steps that it has not."""
    first = _known(recipe, from_stage) if from_stage else PREPARE.name
    last = _known(recipe, until) if until else PROMOTE
    if steps().index(first) > steps().index(last):
        raise BadInput(f"--from {from_stage} comes after --until {until}; nothing would run.")
    return first, last


def _known(recipe: Recipe, step: str) -> str:
    if step not in steps():
        raise BadInput(f"there is no stage {step!r}; expected one of {', '.join(steps())}.")
    if not recipe.runs(step):
        names = ", ".join(name for name in steps() if recipe.runs(name))
        raise BadInput(
            f"recipe {recipe.name} has no stage {step}: it has align = {recipe.align!r}; expected"
            f" one of {names}."
        )
    return step

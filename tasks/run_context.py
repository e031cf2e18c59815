"""One run of the pipeline as it goes: where it lies, what it has made so far, who is told."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from rlhf_core.config import Recipe
from rlhf_core.data.splits import SOURCES
from rlhf_core.errors import BadInput, GateRefused
from rlhf_core.gates.decide import Decision
from rlhf_core.rundir import StageResult
from tasks.promotion.promotion import PromotionResult
from tasks.records.approval_record import ApprovalRecord
from tasks.records.run_record import Record, record_lock
from tasks.records.workspace import Workspace
from tasks.stages import dpo, evaluate, ppo, prepare, reward, sft, validate
from tasks.stages.capacity import require_samplers
from tasks.stages.spec import Artifacts, local, model_folder
from tasks.tracking.client import brief
from tasks.tracking.sync import sync
from tasks.tracking.tracker import Tracker

STAGES = {
    "prepare": prepare,
    "validate": validate,
    "sft": sft,
    "reward": reward,
    "ppo": ppo,
    "dpo": dpo,
    "evaluate": evaluate,
}
ALL = (*STAGES, "promote")


@dataclass(frozen=True)
class Row:
    """A stage in the final table."""

    stage: str
    seconds: float
    metric: str | None
    value: float | None
    verdict: str
    link: str | None
    run_dir: Path | None
    cached: bool


@dataclass(frozen=True)
class PipelineResult:
    """What a pipeline run came to. problem: why MLflow has not all of it (then `rlhf sync` forwards
    the rest).
    """

    name: str
    rows: list[Row]
    promotion: PromotionResult | None
    parent_run_id: str | None
    parent_link: str | None
    problem: str | None


@dataclass
class Session:
    """State with a life: grows stage by stage."""

    recipe: Recipe
    workspace: Workspace
    tracker: Tracker
    first: int = 0  # stages before this one are only read
    last: int = len(ALL) - 1
    have: Artifacts = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)
    decisions: list[Decision] = field(default_factory=list)
    results: dict[str, StageResult] = field(default_factory=dict)
    approval: ApprovalRecord | None = (
        None  # what a person was asked and answered, where the recipe requires that
    )
    promotion: PromotionResult | None = None

    @property
    def stages(self) -> list[str]:
        """The recipe's stages that are processes, up to the last one wanted."""
        return [name for name in STAGES if ALL.index(name) <= self.last and self.recipe.runs(name)]

    @property
    def promotes(self) -> bool:
        return self.last == ALL.index("promote")

    def only_recorded(self, stage: str) -> bool:
        """Whether a stage may only be taken from an earlier run."""
        return ALL.index(stage) < self.first

    def result(self) -> PipelineResult:
        tracker = self.tracker
        return PipelineResult(
            tracker.record.name,
            list(self.rows),
            self.promotion,
            tracker.record.run_id,
            tracker.link(),
            tracker.problem,
        )


def position(recipe: Recipe, stage: str | None, default: int) -> int:
    """A stage's place in the order. Raises BadInput for a name that is none, or none of this
    recipe's.
    """
    if stage is None:
        return default
    if stage not in ALL:
        raise BadInput(f"there is no stage {stage!r}; expected one of {', '.join(ALL)}.")
    if not recipe.runs(stage):
        names = ", ".join(name for name in ALL if recipe.runs(name))
        raise BadInput(
            f"recipe {recipe.name} has no stage {stage}: it has align = {recipe.align!r}; expected"
            f" one of {names}."
        )
    return ALL.index(stage)


def check_paths(recipe: Recipe) -> None:
    """Look for every file and folder that the recipe names. Raises BadInput naming the key, before
    anything has run.
    """
    if recipe.model.sft:
        model_folder("model.sft", recipe.model.sft)
    reward.check(recipe)
    ppo.check(recipe)
    if prepare.spec(recipe, {}) is None:
        model_folder("model.base", recipe.model.base)
    for name in SOURCES:
        source = getattr(recipe.data, name)
        if source and source.format != "hub" and not source.path.startswith(validate.PREPARED):
            local(f"data.{name}", source.path)
    evaluate.check(recipe.evaluate)


@contextlib.contextmanager
def opened(
    recipe: Recipe,
    name: str,
    *,
    from_stage: str | None,
    until: str | None,
    report: Callable[[Session], Path | None],
) -> Iterator[Session]:
    """A session, recorded under `name`; whatever happens inside, the record ends with the status
    that belongs to it.

    report: writes the report of a session that finished, was refused or failed (one that was killed
    must end at once).
    """
    from prefect import (
        runtime,
        # here, for planning a run needs no Prefect, and must not load it before its settings are made
    )

    workspace = Workspace.here()
    first, last = position(recipe, from_stage, 0), position(recipe, until, len(ALL) - 1)
    if first > last:
        raise BadInput(f"--from {from_stage} comes after --until {until}; nothing would run.")
    check_paths(recipe)
    require_samplers(recipe, [name for name in ALL[first : last + 1] if recipe.runs(name)])
    record = Record.new(workspace, recipe, name).model_copy(
        update={"flow_run_id": runtime.flow_run.id}
    )
    with record_lock(workspace, record.id):
        record.save(workspace)
        sync(workspace)
        tracker = Tracker(workspace, record)
        session = Session(recipe, workspace, tracker, first, last)
        write = partial(report, session)
        try:
            yield session
        except Exception as error:
            tracker.end(
                "FAILED",
                str(error) if isinstance(error, GateRefused | BadInput) else brief(error),
                write,
            )
            raise
        except BaseException as error:
            tracker.end("KILLED", brief(error))
            raise
        tracker.end("FINISHED", report=write)

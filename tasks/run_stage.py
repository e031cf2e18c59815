"""The Prefect task that runs one stage: make its spec, run its process or find it finished."""

import contextlib
import functools
from collections.abc import Callable

from prefect import Task, task
from prefect.artifacts import create_link_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun

from rlhf_core.errors import BadInput, LimitReached, StageFailed
from rlhf_core.gates.decide import Decision, refused
from rlhf_core.rundir import StageSpec
from rlhf_core.stage_catalogue import EVALUATE, LEARNING, PROMOTE, VALIDATE, Stage
from tasks.execution import stage_calls, stage_process
from tasks.execution.concurrency import devices_reserved
from tasks.execution.stage_process import StageRun
from tasks.leakage.heldout import without_leaks
from tasks.promotion.rival import champion_to_beat
from tasks.records import events
from tasks.records.heldout_check import HeldoutCheck
from tasks.records.run_record import Status
from tasks.run_context import RunContext, StageOutput, combined
from tasks.run_result import row_of
from tasks.spending.limits import decisions_at_end
from tasks.spending.stage_watch import StageWatch
from tasks.stages.contract import outputs_of, spec_of
from tasks.stages.judges import require_judges
from tasks.stages.samples import require_samples, require_subsets
from tasks.tracking.client import brief


def is_infrastructure(task: Task, task_run: TaskRun, state: State) -> bool:
    """Retry infrastructure failures only."""
    return isinstance(state.data, StageFailed)


def run_stage(context: RunContext, stage: Stage, *given: StageOutput) -> StageOutput:
    """Run `stage` on what earlier stages gave.

    Raises UntilReached for a stage that is not wanted any more, else what the stage raises.
    """
    context.require_wanted(stage.name)
    return _run_stage(context, stage, given)


@task(
    task_run_name="{stage.name}",
    retries=2,
    retry_delay_seconds=[2, 20],
    retry_condition_fn=is_infrastructure,
    cache_policy=NO_CACHE,  # the run directory is the cache
    persist_result=False,
)
def _run_stage(context: RunContext, stage: Stage, given: tuple[StageOutput, ...]) -> StageOutput:
    have, results = combined(given)
    have = context.brought | have
    if data := results.get(VALIDATE.name):
        require_samples(context.recipe, data.metrics, context.is_wanted)
        if "comparisons_heldout" in have:
            split = have["comparisons_heldout"].path
            require_subsets(context.recipe, split, context.is_wanted)
    leaks = without_leaks(context, stage, have)
    have |= leaks.splits if leaks else {}
    spec = spec_of(stage, context.recipe, have)
    run = _run_process(context, spec, leaks.check if leaks else None) if spec else None
    if run:
        results[stage.name] = run.result
    made = outputs_of(stage, context.recipe, run.result if run else None)
    output = StageOutput(stage, have, have | made, results, run)
    if not stage.gated:
        close(context, output, [])
    return output


def _run_process(context: RunContext, spec: StageSpec, check: HeldoutCheck | None) -> StageRun:
    run_dir, tracker = context.workspace.run_dir(spec), context.tracker
    stage_process.bring(spec, run_dir)
    ahead = stage_process.is_ahead(run_dir)  # of this run, even if it has ended by now
    recorded = (run_dir / "result.json").exists() and not ahead
    if context.is_recorded_only(spec.stage) and not recorded:
        raise BadInput(
            f"stage {spec.stage} of this recipe has not been run: nothing is recorded in {run_dir}."
            f" Run without --from, or from {spec.stage}."
        )
    tracker.stage_started(spec.stage, run_dir, cached=recorded)
    if check:
        tracker.keep_heldout_check(spec.stage, check)
    watch = StageWatch(context, spec.stage, run_dir)
    try:
        if not recorded:
            watch.require_within()
        if not recorded and spec.stage in LEARNING:
            require_judges(context.recipe, context.is_wanted)
        with contextlib.nullcontext() if recorded else devices_reserved(tracker.flush):
            return stage_process.run_stage(
                spec,
                run_dir,
                watch=_importing_ahead(context, spec.stage, watch),
                distributed=context.recipe.distributed,
            )
    except LimitReached as ended:
        error = watch.explained(ended)
        tracker.stage_ended(spec.stage, status="FAILED", limits=watch.decisions(), error=str(error))
        _emit_end(context, spec.stage)
        raise error from None
    except Exception as error:
        tracker.stage_ended(spec.stage, status="FAILED", error=str(error) or brief(error))
        _emit_end(context, spec.stage)
        raise
    except BaseException as error:
        tracker.stage_ended(spec.stage, status="KILLED", error=brief(error))
        raise


def _importing_ahead(
    context: RunContext, stage: str, watch: Callable[[], None]
) -> Callable[[], None]:
    """Return the watch that also imports, while the evaluation starts, what the promotion runs."""
    if stage != EVALUATE.name or not context.is_wanted(PROMOTE):
        return watch

    def both() -> None:
        watch()
        _import_smoke_test()

    return both


@functools.cache
def _import_smoke_test() -> None:
    """Import torch and what else the smoke test of a promotion needs, which takes seconds."""
    with contextlib.suppress(Exception):  # the promotion imports it again, and says what fails
        needed = ("rlhf_core.modeling.smoke", "tasks.registry.answers")
        stage_calls.ask("rlhf_core.interpreter.answering:import_ahead", *needed)


def with_champion(context: RunContext, policy: StageOutput) -> StageOutput:
    """Return `policy` with the model that it is to beat, as 'champion', where there is one.

    The reward model that the champion was trained with comes as 'champion_reward', where known.
    A registry that does not answer costs nothing here: promotion says so later.
    """
    context.require_wanted(EVALUATE.name)
    tracker, name = context.tracker, f"{context.recipe.registry.name}-policy"
    digest = policy.artifacts["policy"].digest
    try:
        champion = champion_to_beat(tracker.client, context.workspace, name, digest)
    except BadInput:
        raise
    except Exception as error:
        tracker.is_behind(error)
        return policy
    found = champion.artifacts if champion else {}
    return StageOutput(
        policy.stage, policy.inputs, policy.artifacts | found, policy.results, policy.run
    )


def close(context: RunContext, output: StageOutput, decisions: list[Decision]) -> None:
    """Record that a stage has ended, with the decisions of its gates."""
    if output.run is None:  # there was nothing to run
        return
    name, tracker = output.stage.name, context.tracker
    stops = refused(decisions)
    sentence = "; ".join(decision.reason for decision in stops) or None
    status: Status = "FAILED" if stops else "FINISHED"
    limits = decisions_at_end(context, name)
    tracker.stage_ended(name, status=status, decisions=decisions, limits=limits, error=sentence)
    _emit_end(context, name)
    if link := tracker.link(name):
        create_link_artifact(link, key=f"mlflow-{name}", link_text=f"{name} in MLflow")


def _emit_end(context: RunContext, stage: str) -> None:
    events.emit(events.StepEnded(row_of(context.tracker.record, stage)))

"""The Prefect task that every stage is: make its spec, run its process or find it finished, keep
what it gave.
"""

import contextlib
from pathlib import Path

from prefect import task
from prefect.cache_policies import NO_CACHE

from rlhf_core.errors import BadInput, StageFailed
from rlhf_core.gates.decide import refused, worst_verdict
from rlhf_core.rundir import StageResult, StageSpec
from tasks.execution.concurrency import devices_reserved
from tasks.execution.stage_process import StageRun, run_stage
from tasks.promotion.rival import champion_to_beat
from tasks.records import events
from tasks.run_context import STAGES, Row, Session
from tasks.tracking.client import brief

RETRIES = 2
RETRY_DELAYS_SECONDS = [2, 20]


def is_infrastructure(task, task_run, state) -> bool:
    """Only a stage that failed for nobody's input is tried again."""
    return isinstance(state.data, StageFailed)


@task(
    task_run_name="{name}",
    retries=RETRIES,
    retry_delay_seconds=RETRY_DELAYS_SECONDS,
    retry_condition_fn=is_infrastructure,
    cache_policy=NO_CACHE,  # the run directory is the cache
    persist_result=False,
)
def stage(name: str, session: Session) -> StageRun | None:
    """Stage `name` of the session's recipe; None when there is nothing to do. Raises what the stage
    raises.
    """
    module = STAGES[name]
    if name == "evaluate":
        _invite_champion(session)
    spec = module.spec(session.recipe, session.have)
    done = _run(session, spec) if spec else None
    session.have |= module.gives(session.recipe, session.have, done.result if done else None)
    if done:
        session.results[name] = done.result
    return done


def _run(session: Session, spec: StageSpec) -> StageRun:
    run_dir, tracker = session.workspace.run_dir(spec), session.tracker
    recorded = (run_dir / "result.json").exists()
    if session.only_recorded(spec.stage) and not recorded:
        raise BadInput(
            f"stage {spec.stage} of this recipe has not been run: nothing is recorded in {run_dir}."
            f" Run without --from, or from {spec.stage}."
        )
    tracker.stage_started(spec.stage, run_dir, cached=recorded)
    try:
        with contextlib.nullcontext() if recorded else devices_reserved():
            return run_stage(
                spec, run_dir, watch=tracker.tick, distributed=session.recipe.distributed
            )
    except BaseException as error:
        status, said = ("FAILED", str(error)) if isinstance(error, Exception) else ("KILLED", "")
        tracker.stage_ended(spec.stage, status=status, error=said or brief(error))
        raise


def _invite_champion(session: Session) -> None:
    """The model that the policy is to beat, when the registry can be asked; promotion says so when
    it could not.
    """
    session.have.pop("champion", None)
    try:
        model = f"{session.recipe.registry.name}-policy"
        rival = champion_to_beat(
            session.tracker.client, session.workspace, model, session.have["policy"].digest
        )
    except BadInput:
        raise
    except Exception as error:
        session.tracker.problem = brief(error)
        return
    if rival:
        session.have["champion"] = rival


def close(session: Session, name: str, done: StageRun | None, decisions: list) -> Row:
    """Tell the tracker and the listeners that a stage has ended, with its verdicts; its row of the
    final table.
    """
    stops = refused(decisions)
    sentence = "; ".join(decision.reason for decision in stops) or None
    link = None
    if done:
        status = "FAILED" if stops else "FINISHED"
        session.tracker.stage_ended(name, status=status, decisions=decisions, error=sentence)
        link = session.tracker.link(name)
    result = done.result if done else StageResult(stage=name, digest="", seconds=0.0)
    cached = done.cached if done else False
    if done:
        events.emit(
            events.StageFinished(name, result.seconds, result.metrics, decisions, link, cached)
        )
    metric = STAGES[name].METRIC
    row = Row(
        name,
        result.seconds,
        metric,
        result.metrics.get(metric),
        worst_verdict(decisions),
        link,
        _folder(done),
        cached,
    )
    session.rows.append(row)
    return row


def _folder(done: StageRun | None) -> Path | None:
    return done.run_dir if done else None

"""The pipeline as a sentence: what runs, on what, and what stops it."""

import contextlib

from prefect import State, flow, runtime
from prefect.states import Failed

from flows.platform import ephemeral_server
from flows.platform.deployment_slot import outlast_lost_slot
from flows.progress.prefect_log import steps_in_log
from flows.report.at_end import write_page, write_report
from rlhf_core.config import Recipe
from rlhf_core.errors import GateRefused
from rlhf_core.stage_catalogue import EVALUATE, PREPARE, PROMOTE, REWARD, SFT, STAGES, VALIDATE
from tasks.approval.request import approval
from tasks.execution.broken_pipe import outlive_reader
from tasks.execution.concurrency import model_reserved
from tasks.gate import gate
from tasks.promote import promote
from tasks.records.run_record import next_name
from tasks.records.workspace import Workspace
from tasks.registration import register_reward_model
from tasks.run_context import RunContext, StageOutput, UntilReached, opened
from tasks.run_result import PipelineResult, result_of
from tasks.run_stage import run_stage, with_champion

outlast_lost_slot()  # Prefect's engine takes the slot after this import, before the flow begins


def stages(context: RunContext) -> None:
    """Run the stages in order, each gate before what follows it."""
    base = run_stage(context, PREPARE)
    data = run_stage(context, VALIDATE, base)

    sft = run_stage(context, SFT, base, data)
    gate(context, sft)

    rewards = [_reward(context, sft, data)] if context.recipe.has_reward else []

    policy = run_stage(context, STAGES[context.recipe.align], sft, data, *rewards)
    gate(context, policy)

    evaluation = run_stage(context, EVALUATE, sft, data, *rewards, with_champion(context, policy))
    gate(context, evaluation)

    context.require_wanted(PROMOTE)
    if context.recipe.registry.approval.required:
        approval(context, evaluation, write_page)
    promote(context, evaluation)


def _reward(context: RunContext, sft: StageOutput, data: StageOutput) -> StageOutput:
    reward = run_stage(context, REWARD, sft, data)
    gate(context, reward)
    register_reward_model(context, reward)
    return reward


def _run_name() -> str:
    """Return '<recipe>-<commit>-<n>', the run's name in Prefect and in MLflow."""
    return next_name(Workspace.here(), runtime.flow_run.parameters["recipe"])


@flow(name="rlhf", flow_run_name=_run_name, persist_result=False)
def pipeline(
    recipe: Recipe, from_stage: str | None = None, until: str | None = None
) -> PipelineResult | State:
    """Run prepare -> validate -> sft -> reward -> ppo (or dpo, kto) -> evaluate -> promote.

    from_stage, until: the first and the last step that may run. A stage is a process whose run
    directory is its cache; a gate is recorded before it stops anything. A refusal by a gate is a
    state of its own, 'Refused': whoever is notified sees that nothing is broken.
    """
    if runtime.deployment.id:
        outlive_reader()
    try:
        with (
            steps_in_log() if runtime.deployment.id else contextlib.nullcontext(),
            model_reserved(recipe.registry.name),
            opened(
                recipe,
                runtime.flow_run.name,
                from_stage=from_stage,
                until=until,
                report=write_report,
            ) as context,
        ):
            with contextlib.suppress(UntilReached):
                stages(context)
            tracker = context.tracker
    except GateRefused as error:
        return Failed(name="Refused", message=str(error), data=error)
    return result_of(tracker.record, tracker.problem)


def run_pipeline(
    recipe: Recipe, from_stage: str | None = None, until: str | None = None
) -> PipelineResult:
    """Run the pipeline here. Raises BadInput, GateRefused or StageFailed as the stage did.

    Ctrl-C and SIGTERM end the stage that runs, with its whole process group.
    """
    with ephemeral_server.for_runs():
        result = pipeline(recipe, from_stage, until)
    assert isinstance(result, PipelineResult), "a failed state raises"
    return result

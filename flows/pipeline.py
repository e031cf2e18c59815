"""The pipeline: which stages run, in which order, and what stops them."""

import os

from tasks.records.workspace import Workspace

SETTINGS = {
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_LOGGING_LEVEL": "WARNING",
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
    "PREFECT_CLIENT_MAX_RETRIES": "8",  # see flows/platform/services.py
    "PREFECT_HOME": str(Workspace.here().prefect),
}
for _name, _value in SETTINGS.items():  # Prefect reads them when it is imported
    os.environ.setdefault(_name, _value)

from prefect import Flow, State, flow, runtime  # noqa: E402
from prefect.states import Failed  # noqa: E402

from flows.report.at_end import write_page, write_report  # noqa: E402
from rlhf_core.config import Recipe  # noqa: E402
from rlhf_core.errors import GateRefused  # noqa: E402
from tasks.approval.request import approval  # noqa: E402
from tasks.execution.broken_pipe import outlive_reader  # noqa: E402
from tasks.execution.concurrency import model_reserved  # noqa: E402
from tasks.gate import gate  # noqa: E402
from tasks.promote import promote  # noqa: E402
from tasks.records.run_record import next_name  # noqa: E402
from tasks.run_context import ALL, PipelineResult, opened  # noqa: E402
from tasks.run_stage import stage  # noqa: E402


def _run_name() -> str:
    """'<recipe>-<commit>-<n>', in Prefect and in MLflow."""
    return next_name(Workspace.here(), runtime.flow_run.parameters["recipe"])


@flow(name="rlhf", flow_run_name=_run_name, persist_result=False)
def pipeline(
    recipe: Recipe, from_stage: str | None = None, until: str | None = None
) -> PipelineResult | State:
    """Prepare -> validate -> sft -> reward -> ppo (or dpo) -> evaluate -> promote, from
    `from_stage` to `until`.

    A stage is a process whose run directory is its cache; a gate is recorded before it stops
    anything. A refusal by a gate is a state of its own, 'Refused': whoever is notified sees that
    nothing is broken.
    """
    if runtime.deployment.id:
        outlive_reader()
    try:
        with model_reserved(recipe.registry.name):
            return _stages(recipe, from_stage, until)
    except GateRefused as error:
        return Failed(name="Refused", message=str(error), data=error)


def _stages(recipe: Recipe, from_stage: str | None, until: str | None) -> PipelineResult:
    with opened(
        recipe, runtime.flow_run.name, from_stage=from_stage, until=until, report=write_report
    ) as session:
        for name in session.stages:
            done = stage(name, session)
            gate(name, session, done)
        if session.promotes:
            if recipe.registry.approval.required:
                approval(session, write_page)
            promote(session)
    return session.result()


def alone(name: str) -> Flow:
    """A flow of one stage, on what earlier stages have recorded."""

    @flow(name=f"rlhf-{name}", flow_run_name=_run_name, persist_result=False)
    def one_stage(recipe: Recipe) -> PipelineResult | State:
        return pipeline.fn(recipe, from_stage=name, until=name)

    return one_stage


prepare, validate, sft, reward, ppo, dpo, evaluate, promote_only = map(alone, ALL)


def run_pipeline(
    recipe: Recipe, from_stage: str | None = None, until: str | None = None
) -> PipelineResult:
    """Run the pipeline here. Raises BadInput, GateRefused or StageFailed as the stage did.

    Ctrl-C and SIGTERM end the stage that runs, with its whole process group.
    """
    return pipeline(recipe, from_stage, until)

"""Gates: decided from a stage's result, recorded in MLflow and Prefect, and only then enforced."""

from prefect import task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE

from rlhf_core.errors import GateRefused
from rlhf_core.gates.decide import Decision, Subject, decide_all, refused, worst_verdict
from tasks.run_context import RunContext, StageOutput
from tasks.run_stage import close
from tasks.stages.contract import spec_of
from tasks.tracking import rendering


@task(task_run_name="gate {output.stage.name}", cache_policy=NO_CACHE, persist_result=False)
def gate(context: RunContext, output: StageOutput) -> list[Decision]:
    """Decide every gate of a finished stage, record the decisions, then enforce them.

    Raises GateRefused with one sentence per gate that refused.
    """
    name = output.stage.name
    decisions = decide_all(context.recipe, _subject(context, output))
    close(context, output, decisions)
    if decisions:
        create_markdown_artifact(
            rendering.verdict_table(decisions),
            key=f"gate-{name}",
            description=f"{name}: {worst_verdict(decisions)}",
        )
    if stops := refused(decisions):
        raise GateRefused(
            f"{name} is refused: " + "; ".join(decision.reason for decision in stops) + "."
        )
    return decisions


def _subject(context: RunContext, output: StageOutput) -> Subject:
    """Make the spec anew: a cached result must be of today's recipe and of today's bytes."""
    spec, run = spec_of(output.stage, context.recipe, output.inputs), output.run
    assert spec and run, "a gated stage has always run"
    return Subject(run.result, spec, run.run_dir, context.record.commit)

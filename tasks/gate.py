"""Gates: decided from a stage's result, recorded in MLflow and Prefect, and only then enforced."""

from prefect import task
from prefect.artifacts import create_link_artifact, create_markdown_artifact
from prefect.cache_policies import NO_CACHE

from rlhf_core.errors import GateRefused
from rlhf_core.gates.decide import Decision, Subject, decide_all, refused
from tasks import model_card, run_stage
from tasks.execution.stage_process import StageRun
from tasks.model_card import PARENTS
from tasks.records.run_record import Registration
from tasks.run_context import STAGES, Session
from tasks.tracking import rendering


@task(task_run_name="gate {name}", cache_policy=NO_CACHE, persist_result=False)
def gate(name: str, session: Session, done: StageRun | None) -> list[Decision]:
    """Decide every gate of a finished stage. Raises GateRefused, one sentence a gate, after all is
    recorded.

    The spec is made anew: a cached result must be of what the recipe says now, and of the bytes
    that lie there now.
    """
    decisions = decide_all(session.recipe, _subject(name, session, done)) if done else []
    session.decisions += decisions
    row = run_stage.close(session, name, done, decisions)
    if decisions:
        create_markdown_artifact(
            rendering.verdict_table(decisions),
            key=f"gate-{name}",
            description=f"{name}: {row.verdict}",
        )
    if row.link:
        create_link_artifact(row.link, key=f"mlflow-{name}", link_text=f"{name} in MLflow")
    if stops := refused(decisions):
        raise GateRefused(
            f"{name} is refused: " + "; ".join(decision.reason for decision in stops) + "."
        )
    if name == "reward":
        session.tracker.register(registration(session, "reward", "reward", decisions))
    return decisions


def _subject(name: str, session: Session, done: StageRun) -> Subject:
    spec = STAGES[name].spec(session.recipe, session.have)
    return Subject(done.result, spec, done.run_dir, session.tracker.record.commit)


def registration(
    session: Session, name: str, stage_name: str, decisions: list[Decision]
) -> Registration:
    """What the registry is to hold of a model: its bytes, verdicts, overrides, data and origin."""
    data = {
        item: session.have[item].digest
        for item in sorted(session.have)
        if item.endswith(("_train", "_heldout"))
    }
    parents = {
        item: session.have[item].digest for item in PARENTS[stage_name] if item in session.have
    }
    overrides = {
        f"{d.stage}.{d.gate}": d.override.model_dump(mode="json") for d in decisions if d.override
    }
    tags = {
        "recipe": session.recipe.name,
        "align": session.recipe.align,
        "git_commit": session.tracker.record.commit,
        "stage_digest": session.results[stage_name].digest,
        "verdicts": rendering.as_json(
            {f"{d.stage}.{d.gate}": {"verdict": d.verdict, "reason": d.reason} for d in decisions}
        ),
        "overrides": rendering.as_json(overrides),
        "data": rendering.as_json(data),
        "parents": rendering.as_json(parents),
        "given": rendering.as_json(
            [item for item in ("sft",) if item not in session.results]
        ),  # needs no gate record
    } | ({"approval": session.approval.model_dump_json()} if session.approval else {})
    text = model_card.card(session, name, stage_name, decisions)
    model = f"{session.recipe.registry.name}-{name}"
    return Registration(
        model=model,
        stage=stage_name,
        artifact=session.have[name],
        tags=tags,
        decisions=decisions,
        note=model_card.description(
            rendering.spaced(model_card.card(session, name, stage_name, decisions, brief=True))
        ),
        card=text,
    )

"""Register a model: its bytes, verdicts, overrides, data, origin and card."""

from rlhf_core.gates.decide import Decision
from rlhf_core.rundir import Artifact
from rlhf_core.stage_catalogue import REWARD, STAGES, Stage
from tasks import model_card
from tasks.contest import contest_tag, decide_with
from tasks.records.approval_record import VersionApproval
from tasks.records.run_record import ModelKind, Registration
from tasks.registry.versions import CANDIDATE_OF
from tasks.run_context import RunContext, StageOutput
from tasks.stages.spec import date_of_templates
from tasks.tracking import rendering


def register_reward_model(context: RunContext, reward: StageOutput) -> None:
    """Have the reward model registered as soon as MLflow answers."""
    decisions = context.record.decisions_of(REWARD.name)
    context.tracker.register(_registration(context, reward, REWARD, "reward", decisions))


def register_policy(context: RunContext, evaluation: StageOutput) -> str:
    """Have the evaluated policy registered; return the name of its registered model.

    A second call renews the records of its version. They hold the verdicts of every stage, the
    contest with its rival, and where a person's approval stands.
    """
    record, against = context.record, rival(evaluation)
    decisions, tags = record.decisions, {}
    if against:
        contest = decide_with(context, evaluation, against)
        decisions = [*decisions, contest]
        tags = {"compared_with": against.digest, "contest": contest_tag(contest)}
    maker = STAGES[context.recipe.align]
    policy = _registration(context, evaluation, maker, "policy", decisions)
    approval = VersionApproval(
        required=context.recipe.registry.approval.required, record=record.approval
    )
    context.tracker.register(
        policy.model_copy(update={"tags": policy.tags | tags, "approval": approval})
    )
    return policy.model


def rival(evaluation: StageOutput) -> Artifact | None:
    """Return the champion that the policy was compared with; None where there was none."""
    champion = evaluation.artifacts.get("champion")
    policy = evaluation.artifacts["policy"]
    return champion if champion and champion.digest != policy.digest else None


def _registration(
    context: RunContext,
    output: StageOutput,
    maker: Stage,
    kind: ModelKind,
    decisions: list[Decision],
) -> Registration:
    artifact = output.artifacts[kind]
    return Registration(
        model=f"{context.recipe.registry.registered_as}-{kind}",
        stage=maker.name,
        artifact=artifact,
        template_date=date_of_templates(context.recipe, [artifact.path]),
        tags=_tags(context, output, maker, decisions),
        decisions=decisions,
        note=model_card.description(
            rendering.spaced(model_card.card(context, output, kind, decisions, brief=True))
        ),
        card=model_card.card(context, output, kind, decisions),
    )


def _tags(
    context: RunContext, output: StageOutput, maker: Stage, decisions: list[Decision]
) -> dict[str, str]:
    recipe, record, artifacts = context.recipe, context.record, output.artifacts
    data = [name for name in sorted(artifacts) if name.endswith(("_train", "_heldout"))]
    parents = [name for name in maker.parents if name in artifacts]
    verdicts = {
        f"{d.stage}.{d.gate}": {"verdict": d.verdict, "reason": d.reason} for d in decisions
    }
    overrides = {
        f"{d.stage}.{d.gate}": d.override.model_dump(mode="json") for d in decisions if d.override
    }
    given = [name for name in ("sft",) if name not in output.results]  # needs no gate record
    tags = {
        "recipe": recipe.name,
        "align": recipe.align,
        "git_commit": record.commit,
        "stage_digest": output.results[maker.name].digest,
        "verdicts": rendering.as_json(verdicts),
        "overrides": rendering.as_json(overrides),
        "data": rendering.as_json({name: artifacts[name].digest for name in data}),
        "parents": rendering.as_json({name: artifacts[name].digest for name in parents}),
        "given": rendering.as_json(given),
    }
    if recipe.registry.separate_promoter:
        tags[CANDIDATE_OF] = recipe.registry.name
    return tags | ({"approval": record.approval.model_dump_json()} if record.approval else {})

"""The contest of an evaluated policy with the champion: decided once, for registry and ledger."""

from rlhf_core.gates.decide import Decision, Subject
from rlhf_core.rundir import Artifact, StageSpec
from tasks.promotion.candidates import contest_entries
from tasks.promotion.looks import look_of
from tasks.run_context import RunContext, StageOutput
from tasks.stages.contract import spec_of
from tasks.tracking import rendering


def decide_with(context: RunContext, evaluation: StageOutput, champion: Artifact) -> Decision:
    """Return the decision of the contest with `champion`, from the evaluation's items."""
    # imports scipy and arrow, which a run without a champion does not need
    from rlhf_core.contest.verdict import Look, decide_contest

    spec, run = spec_of(evaluation.stage, context.recipe, evaluation.inputs), evaluation.run
    assert spec and run, "the evaluation has always run"
    subject = Subject(run.result, spec, run.run_dir, context.record.commit)
    look = Look(_look(context, subject), _note(spec, evaluation))
    recipe = context.recipe
    return decide_contest(recipe.registry.contest_in_force, recipe.evaluate, subject, look)


def _look(context: RunContext, subject: Subject) -> int:
    """Return which look at the held-out prompts this is by the ledger as it is now.

    1 where MLflow does not answer: the promotion counts again.
    """
    from rlhf_core.contest.verdict import contest_basis  # imports scipy

    recipe, tracker = context.recipe, context.tracker
    try:
        entries = contest_entries(tracker.client, recipe.registry.name)
    except Exception as error:
        tracker.is_behind(error)
        return 1
    basis = contest_basis(recipe.registry.contest_in_force, recipe.evaluate, subject)
    return look_of(entries, basis)


def _note(spec: StageSpec, evaluation: StageOutput) -> str:
    """Return which reward models scored the replies of both."""
    ours, theirs = spec.inputs.get("reward"), evaluation.artifacts.get("champion_reward")
    if ours is None:
        return "no reward model scored the replies"
    if theirs is None:
        return (
            "the reward model that the champion was trained with is not known: the candidate's"
            " alone scored the replies"
        )
    if theirs.digest == ours.digest:
        return "candidate and champion were trained with the same reward model"
    return f"the champion's reward model {theirs.digest[:12]} scored the replies too"


def contest_tag(decision: Decision) -> str:
    """Return what MLflow's version says of the contest, as JSON."""
    evidence = decision.contest
    assert evidence is not None  # a contest is decided with its evidence
    return rendering.as_json(
        {
            "metric": decision.metric,
            "share": decision.value,
            "n": decision.n,
            "interval": decision.interval,
            "confidence": decision.confidence,
            "threshold": decision.threshold,
            "of": decision.of,
            "verdict": decision.verdict,
            "look": evidence.look,
            "spent": evidence.spent,
            "note": evidence.note,
        }
    )

"""The use of held-out prompts, and the fresh ones that a recipe may take next, in words."""

from rlhf_core.config import Recipe
from rlhf_core.contest.spending import level
from rlhf_core.errors import BadInput
from tasks.leakage.rotation import Freshness, HeldoutUse


def use_text(recipe: Recipe, use: HeldoutUse) -> str:
    """Return how often contests have looked at the present prompts, and what is left."""
    data, confidence = recipe.data, recipe.registry.contest_in_force.confidence
    fold = f", fold {data.heldout_fold} of {data.heldout_folds}" if data.heldout_folds > 1 else ""
    return (
        f"Held-out prompts of {recipe.name}: {use.prompts:,}{fold} ({use.digest[:12]}).\n"
        f"Contests on them so far: {use.contests}, which spent {use.spent:.0%} of their error"
        f" budget. The next one has the level {use.next_level:.2g}; on fresh prompts it would have"
        f" {level(1, confidence):.2g}."
    )


def fresh_text(recipe: Recipe, fresh: Freshness) -> list[str]:
    """Return what to set for the next fold. Raises BadInput where its prompts are not fresh."""
    data, following = recipe.data, recipe.data.heldout_fold + 1
    if not fresh.is_fresh:
        raise BadInput(_refusal(recipe, fresh))
    searched = "no champion was trained on one of them"
    if fresh.unknown:
        reasons = "; ".join(f"{name} ({why})" for name, why in fresh.unknown.items())
        searched = f"no champion is known to be, but the training data are unknown of {reasons}"
    return [
        f"Fold {following} of {data.heldout_folds}: {fresh.use.prompts:,} prompts"
        f" ({fresh.use.digest[:12]}). No contest has looked at them, and {searched}.",
        f"Set data.heldout_fold = {following} in the recipe, or --set data.heldout_fold={following}"
        " for rlhf run and rlhf deploy. The prompts of the present fold train then, and contests"
        " begin at 1.",
    ]


def _refusal(recipe: Recipe, fresh: Freshness) -> str:
    following, total = recipe.data.heldout_fold + 1, fresh.use.prompts
    found = [f"{n} of {total} are training prompts of {name}" for name, n in fresh.trained.items()]
    if fresh.shared:
        found.append(f"{fresh.shared} of {total} are in the present fold too")
    if fresh.use.contests:
        found.append(f"{fresh.use.contests} contests have looked at some of them")
    return (
        f"the prompts of fold {following} are not fresh: {'; '.join(found)}. A fold must be set"
        " aside (data.heldout_folds) before the first model is trained on these data; give new rows"
        " as data.prompts_heldout."
    )

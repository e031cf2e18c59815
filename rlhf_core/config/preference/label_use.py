"""The use of later labels (data.new_comparisons): which stages learn from them, which gates count.

A key that would do nothing with these labels is refused.
"""

from typing import TYPE_CHECKING

from rlhf_core.config.decidable import measured_kinds

if TYPE_CHECKING:
    from rlhf_core.config.recipe import Recipe

LEARNERS = ("reward", "dpo", "kto")  # the stages that can learn from comparisons


def require_labels_used(recipe: "Recipe") -> None:
    """Raise ValueError for new labels, or a weight or gate of them, that nothing would use.

    A given reward model learns from no new pair, and is measured on those that are held out.
    """
    _require_gate(recipe)
    _require_before(recipe)
    if not recipe.data.new_comparisons:
        return
    reasons = [why_not_reading(recipe, stage) for stage in LEARNERS if recipe.runs(stage)]
    if all(reasons):
        raise ValueError(
            "data.new_comparisons is given, but no stage reads comparisons:"
            f" {', '.join(filter(None, reasons))}; expected a recipe that does, or no"
            " new_comparisons"
        )
    for stage, section in {"reward": recipe.reward, "dpo": recipe.dpo}.items():
        why = why_not_learning(recipe, stage)
        if why and section.new_weight != 1.0:
            raise ValueError(
                f"{stage}.new_weight is {section.new_weight:g}, but the stage {stage} trains on no"
                f" new row: {why}; expected no new_weight"
            )


def why_not_learning(recipe: "Recipe", stage: str) -> str | None:
    """Return why a stage learns from no comparisons; None where it does."""
    if recipe.runs(stage) and stage == "reward" and recipe.model.reward:
        return f"model.reward is {recipe.model.reward!r}, a given model"
    return why_not_reading(recipe, stage)


def why_not_reading(recipe: "Recipe", stage: str) -> str | None:
    """Return why a stage neither learns from comparisons nor is measured on them."""
    if not recipe.runs(stage):
        return f"align = {recipe.align!r} does not run the stage {stage}"
    if recipe.data.comparisons is None:
        return "data.comparisons is not given"
    if stage != "dpo" and "comparisons" not in measured_kinds(recipe, stage):
        key = "kto.learn_from" if stage == "kto" else "reward.feedback.learn_from"
        return f"{key} is 'feedback'"
    return None


def _require_before(recipe: "Recipe") -> None:
    """Raise ValueError for a reward model whose drift would not be measured."""
    before = recipe.reward.before
    why = why_not_reading(recipe, "reward")
    if not why and not recipe.data.new_comparisons:
        why = "data.new_comparisons is not given"
    if before and why:
        raise ValueError(
            f"reward.before is {before!r}, but its drift on new comparisons is not measured: {why};"
            " expected files of later labels and a reward model that is measured on comparisons, or"
            " no reward.before"
        )


def _require_gate(recipe: "Recipe") -> None:
    """Raise ValueError for a gate of new labels that would be left out."""
    gate = recipe.reward.gate
    if gate.min_new_accuracy is None:
        fields = type(gate).model_fields
        for key in ("min_new_lower_bound", "min_new_pairs"):
            if getattr(gate, key) != fields[key].default:
                raise ValueError(
                    f"reward.gate.{key} is {getattr(gate, key):g}, but reward.gate.min_new_accuracy"
                    f" is not set, so that there is no gate; set it, or leave {key} out"
                )
    elif why := why_not_reading(recipe, "reward"):
        raise ValueError(
            f"reward.gate.min_new_accuracy is {gate.min_new_accuracy:g}, but no reward model is"
            f" measured on comparisons: {why}; expected another setting, or no min_new_accuracy"
        )

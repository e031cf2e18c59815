"""Settings of later labels, and of the reward model that training starts from, checked together."""

from typing import TYPE_CHECKING

from rlhf_core.config.preference.reward import FROM_SFT

if TYPE_CHECKING:
    from rlhf_core.config.recipe import Recipe


def require_new_labels(recipe: "Recipe") -> None:
    """Raise ValueError for a weight of new labels, or a start, that no stage would use."""
    for stage, section in {"reward": recipe.reward, "dpo": recipe.dpo}.items():
        if section.new_weight != 1.0 and not recipe.data.new_comparisons:
            raise ValueError(
                f"{stage}.new_weight is {section.new_weight:g}, but data.new_comparisons is not"
                " given, so that there is no new row; expected files of later labels, or no"
                " new_weight"
            )
    if recipe.reward.start != FROM_SFT:
        _require_start(recipe)


def _require_start(recipe: "Recipe") -> None:
    start = f"reward.start is {recipe.reward.start!r}"
    if recipe.model.reward:
        raise ValueError(
            f"{start}, but model.reward is {recipe.model.reward!r} and nothing is trained; remove"
            " one of them"
        )
    if not recipe.has_reward:
        raise ValueError(
            f"{start}, but align = {recipe.align!r} trains no reward model; remove it, or set"
            " evaluate.train_reward = true"
        )
    if recipe.ppo.reward_trunk == "reference":
        raise ValueError(
            f"{start}, but ppo.reward_trunk is 'reference': the reward model must differ from the"
            " SFT model by an adapter and its head alone. Set ppo.reward_trunk = 'own', or"
            f" reward.start = {FROM_SFT!r}"
        )

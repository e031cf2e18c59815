"""reward: the reward model, trained from the SFT model on comparisons, or the measurement of a
given one.
"""

from rlhf_core.config import Recipe
from rlhf_core.errors import BadInput
from rlhf_core.rundir import ENSEMBLE, Artifact, StageSpec
from tasks.execution.launcher import rank_config
from tasks.stages.spec import Artifacts, make_spec, model_folder, without_gate


def spec(recipe: Recipe, have: Artifacts) -> StageSpec:
    """Inputs: model (the SFT model), comparisons_train, comparisons_heldout; 'given' when the
    recipe names one.
    """
    inputs = {"model": have["sft"]} | {
        name: have[name] for name in ("comparisons_train", "comparisons_heldout")
    }
    if recipe.model.reward:
        inputs["given"] = Artifact.of(model_folder("model.reward", recipe.model.reward))
    config = {
        "reward": without_gate(recipe.reward),
        "dtype": recipe.model.dtype,
        "train": recipe.model.reward is None,
    }
    return make_spec(recipe, "reward", config | rank_config(recipe), inputs)


def check(recipe: Recipe) -> None:
    """Look for the reward model that the recipe brings. Raises BadInput, naming the key."""
    if recipe.model.reward is None:
        return
    folder, penalty = (
        model_folder("model.reward", recipe.model.reward),
        recipe.ppo.uncertainty_penalty,
    )
    if penalty and not (folder / ENSEMBLE).exists():
        raise BadInput(
            f"ppo.uncertainty_penalty is {penalty:g}, but model.reward is {recipe.model.reward!r},"
            f" one reward model without {ENSEMBLE}; expected an ensemble (made with reward.ensemble"
            " = 2 or more), or a penalty of 0."
        )


def given(recipe: Recipe) -> Artifacts:
    """Return the reward model that the recipe names, if any."""
    named = recipe.model.reward
    return {"reward": Artifact.of(model_folder("model.reward", named))} if named else {}

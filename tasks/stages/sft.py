"""sft: supervised fine-tuning of the base model, or the measurement of a given SFT model."""

from rlhf_core.config import Recipe
from rlhf_core.rundir import Artifact, StageSpec
from tasks.execution.launcher import rank_config
from tasks.stages.spec import Artifacts, make_spec, model_folder, without_gate


def spec(recipe: Recipe, have: Artifacts) -> StageSpec:
    """Inputs: model, demonstrations_train, demonstrations_heldout; 'given' when the recipe names an
    SFT model.
    """
    inputs = {"model": have["base"]} | {
        name: have[name] for name in ("demonstrations_train", "demonstrations_heldout")
    }
    if recipe.model.sft:
        inputs["given"] = Artifact.of(model_folder("model.sft", recipe.model.sft))
    config = {
        "sft": without_gate(recipe.sft),
        "dtype": recipe.model.dtype,
        "train": recipe.model.sft is None,
    }
    return make_spec(recipe, "sft", config | rank_config(recipe), inputs)


def given(recipe: Recipe) -> Artifacts:
    """Return the SFT model that the recipe names, if any."""
    named = recipe.model.sft
    return {"sft": Artifact.of(model_folder("model.sft", named))} if named else {}

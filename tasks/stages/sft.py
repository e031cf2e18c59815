"""The spec of sft: fine-tune the base model, or measure a given SFT model."""

from rlhf_core import stage_catalogue
from rlhf_core.config import Recipe
from rlhf_core.config.stage_configs import SFTStageConfig
from rlhf_core.rundir import Artifact, StageSpec
from tasks.stages.spec import Artifacts, make_spec, model_folder, taken, trained_language_model


def spec(recipe: Recipe, have: Artifacts) -> StageSpec[SFTStageConfig]:
    """Return the spec; a given SFT model is the input 'given'."""
    inputs = taken(stage_catalogue.SFT, have)
    if brought := given(recipe):
        inputs["given"] = brought["sft"]
    train = recipe.model.sft is None
    config = SFTStageConfig(sft=recipe.sft, train=train, **trained_language_model(recipe))
    return make_spec(recipe, "sft", config, inputs)


def given(recipe: Recipe) -> Artifacts:
    """Return the SFT model that the recipe names, if any."""
    named = recipe.model.sft
    return {"sft": Artifact.of(model_folder("model.sft", named))} if named else {}

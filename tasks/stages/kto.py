"""The spec of kto: the policy from the SFT model, on feedback, on comparisons, or on both."""

from rlhf_core import stage_catalogue
from rlhf_core.config import Recipe
from rlhf_core.config.stage_configs import KTOStageConfig
from rlhf_core.rundir import StageSpec
from tasks.stages.labelled import learnt_from
from tasks.stages.spec import Artifacts, make_spec, taken, trained_language_model


def spec(recipe: Recipe, have: Artifacts) -> StageSpec[KTOStageConfig]:
    """Return the spec; its inputs are the splits of the kinds that it learns from."""
    inputs = learnt_from(taken(stage_catalogue.KTO, have), recipe.kto.learn_from)
    config = KTOStageConfig(kto=recipe.kto, **trained_language_model(recipe))
    return make_spec(recipe, "kto", config, inputs)

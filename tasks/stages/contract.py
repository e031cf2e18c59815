"""A stage's spec and outputs: by the stage's own file here, else by what the catalogue says."""

from pkgutil import resolve_name
from types import ModuleType

from rlhf_core.config import Recipe
from rlhf_core.config.stage_configs import LanguageModelStageConfig, StageConfig
from rlhf_core.rundir import StageResult, StageSpec
from rlhf_core.stage_catalogue import Stage
from tasks.stages import evaluate, kto, ppo, prepare, reward, sft, validate
from tasks.stages.spec import (
    Artifacts,
    local,
    make_spec,
    model_folder,
    taken,
    trained,
    trained_language_model,
)

OWN_FILES: dict[str, ModuleType] = {
    "prepare": prepare,
    "validate": validate,
    "sft": sft,
    "reward": reward,
    "ppo": ppo,
    "kto": kto,
    "evaluate": evaluate,
}


def spec_of(stage: Stage, recipe: Recipe, have: Artifacts) -> StageSpec | None:
    """Make the spec of `stage` from what earlier stages left; None when there is nothing to run.

    A stage without a file here takes the catalogue's inputs and the recipe's section of its name.
    Raises BadInput for what the recipe names and is not there.
    """
    if own := OWN_FILES.get(stage.name):
        return own.spec(recipe, have)
    kind: type[StageConfig] = resolve_name(stage.config)
    sections = {stage.name: recipe.section(stage.name)} if stage.name in kind.model_fields else {}
    speaks = issubclass(kind, LanguageModelStageConfig)
    settings = trained_language_model(recipe) if speaks else trained(recipe)
    config = kind.model_validate({**settings, **sections})
    return make_spec(recipe, stage.name, config, taken(stage, have))


def outputs_of(stage: Stage, recipe: Recipe, result: StageResult | None) -> Artifacts:
    """Return what `stage` adds to the artifacts, under the names that later stages know.

    That is what it made, and a model that the recipe gives in place of one to be made.
    """
    own = OWN_FILES.get(stage.name)
    given: Artifacts = own.given(recipe) if own and hasattr(own, "given") else {}
    made = result.outputs if result else {}
    return given | {name: made[output] for name, output in stage.gives.items() if output in made}


def check_paths(recipe: Recipe) -> None:
    """Check that every file and folder that the recipe names is there.

    Raises BadInput naming the key, before anything has run.
    """
    if recipe.model.sft:
        model_folder("model.sft", recipe.model.sft)
    reward.check(recipe)
    ppo.check(recipe)
    if prepare.spec(recipe, {}) is None:
        model_folder("model.base", recipe.model.base)
    for name, source in recipe.data.sources.items():
        key = recipe.data.key_of(name)
        if source.format != "hub" and not source.path.startswith(validate.PREPARED):
            local(key, source.path)
        if source.reader:
            validate.reader_of(key, source)
    evaluate.check(recipe.evaluate)

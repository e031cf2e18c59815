"""The model shapes of a recipe, found without reading any weights."""

import json
from pathlib import Path

from rlhf_core.config import Recipe
from rlhf_core.errors import ConfigError
from rlhf_core.plan.presets import PRESETS, preset
from rlhf_core.plan.shape import ModelShape, shape_of
from rlhf_core.plan.stage_plan import StageModels
from rlhf_core.prepare import PACKAGE_PREFIX, find_gguf


def find_models(
    recipe: Recipe, *, name: str | None = None, config: Path | None = None
) -> StageModels:
    """Return the shapes to plan with: of a preset, of a config.json, or of the recipe's models.

    A reward model that the recipe brings (model.reward) has its own shape, unless a preset or file
    is given. Raises ConfigError if no shape is found, or two are given.
    """
    if name and config:
        raise ConfigError("--model and --model-config name two shapes; expected one of them.")
    if name:
        return _alike(preset(name))
    if config:
        return _alike(_from_file(config))
    policy = _from_base(recipe.model.sft or recipe.model.base)
    return StageModels(policy, _from_base(recipe.model.reward) if recipe.model.reward else policy)


def _alike(shape: ModelShape) -> StageModels:
    return StageModels(shape, shape)


def _from_file(path: Path) -> ModelShape:
    file = path / "config.json" if path.is_dir() else path
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{file} cannot be read as a model's config.json: {error}") from None
    if not isinstance(values, dict):
        raise ConfigError(
            f"{file} holds {type(values).__name__}; expected the object of a model's config.json."
        )
    return shape_of(values, file.parent.name or str(file), str(file))


def _from_base(base: str) -> ModelShape:
    """Return the shape of model.base.

    base: a folder, 'quickstart', 'package:NAME', or a hub name that a preset knows.
    """
    if base == "quickstart":
        from rlhf_core.quickstart.base_model import make_model, make_tokenizer

        return shape_of(
            make_model(make_tokenizer()).config.to_dict(), base, "the generated quickstart model"
        )
    if base.startswith(PACKAGE_PREFIX):
        from transformers import AutoConfig

        file = find_gguf(base.removeprefix(PACKAGE_PREFIX))
        return shape_of(
            AutoConfig.from_pretrained(file.parent, gguf_file=file.name).to_dict(), base, str(file)
        )
    if (folder := Path(base).expanduser()).is_dir():
        return _from_file(folder)
    short = base.rpartition("/")[2].lower().removeprefix("meta-").removesuffix("-instruct")
    if short in PRESETS:
        return PRESETS[short]
    raise ConfigError(
        f"the shape of {base!r} is not known here: it is neither a folder nor a preset. "
        "Give it with --model-config FILE (its config.json) or --model NAME (e.g. 7b)."
    )

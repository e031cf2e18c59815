"""prepare: the base model, and for the quickstart the data files, from what the recipe names."""

from pathlib import Path

from rlhf_core.buckets import is_address
from rlhf_core.config import Recipe
from rlhf_core.config.stage_configs import PrepareStageConfig
from rlhf_core.errors import BadInput
from rlhf_core.prepare import QUICKSTART
from rlhf_core.rundir import Artifact, StageSpec
from tasks.stages.spec import (
    Artifacts,
    is_there,
    looks_like_hub,
    make_spec,
    model_folder,
    similar_names,
)


def spec(recipe: Recipe, have: Artifacts) -> StageSpec[PrepareStageConfig] | None:
    """Return the spec; None for a local folder: then there is nothing to prepare."""
    if _is_folder(recipe):
        return None
    split_seed = recipe.data.split_seed if recipe.model.base == QUICKSTART else None
    config = PrepareStageConfig(base=recipe.model.base, split_seed=split_seed)
    return make_spec(recipe, "prepare", config, {})


def given(recipe: Recipe) -> Artifacts:
    """Return the base model where the recipe names a local folder."""
    if not _is_folder(recipe):
        return {}
    return {"base": Artifact.of(model_folder("model.base", recipe.model.base))}


def _is_folder(recipe: Recipe) -> bool:
    base = recipe.model.base
    if base == QUICKSTART or base.startswith("package:"):
        return False
    if is_address(base):
        return True
    path = Path(base).expanduser()
    if is_there("model.base", path) and path.is_dir():
        return True
    similar = similar_names(path) if "/" in base else []
    if similar or (not looks_like_hub(base) and ("/" in base or base.startswith((".", "~")))):
        there = f" ({' and '.join(similar)} there)" if similar else ""
        raise BadInput(
            f"model.base is {base!r}: no such folder in {Path.cwd()}{there}, and not a hub name"
            " (org/name). Correct the path in the recipe or with --set."
        )
    return False

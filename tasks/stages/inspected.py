"""A recipe's models and first rows, as its stages read them, once its data have been validated."""

from dataclasses import dataclass
from pathlib import Path

from rlhf_core.config import Recipe
from rlhf_core.data.splits import SPLITS
from rlhf_core.inspection.findings import ModelFinding
from rlhf_core.inspection.shown import InspectedStage, ReadModels
from rlhf_core.stage_catalogue import PREPARE, VALIDATE
from tasks.execution.stage_calls import ask
from tasks.records.workspace import Workspace
from tasks.stages.spec import date_of_templates
from tasks.stages.trace import inputs


@dataclass(frozen=True)
class Inspection:
    """The models whose tokenizers the stages load, and the first rows of each stage."""

    recipe: str
    models: dict[Path, list[ModelFinding]]
    stages: list[InspectedStage]


def inspect_recipe(recipe: Recipe, workspace: Workspace, *, rows: int) -> Inspection:
    """Return the first rows of each stage; prepare and validate have run. Nothing is trained.

    Raises BadInput when one of the two has not run.
    """
    have = inputs(recipe, workspace, (PREPARE, VALIDATE))
    models = ReadModels(have["base"].path, _folder(recipe.model.sft), _folder(recipe.model.reward))
    splits = {name: have[name].path for name in SPLITS if name in have}
    folders = [folder for folder in (models.base, models.sft, models.reward) if folder]
    date = date_of_templates(recipe, folders)
    look = "rlhf_core.inspection.stages:inspect_with_models"
    stages, findings = ask(look, recipe, models, splits, rows, date=date)
    return Inspection(recipe.name, findings, stages)


def _folder(name: str | None) -> Path | None:
    return Path(name).expanduser() if name else None

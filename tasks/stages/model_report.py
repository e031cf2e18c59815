"""A model folder against what a run needs: its files, its parts, and the recipe that is to use it.

The checks are those of a run's start and of the validate stage, so that both say the same.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from rlhf_core.config import Recipe
from rlhf_core.inspection.findings import ModelFinding, checked, ok, refuses
from tasks.execution.stage_calls import ask
from tasks.stages.capacity import require_classifier, require_context, require_given, require_served
from tasks.stages.spec import model_folder


@dataclass(frozen=True)
class ModelReport:
    """The findings on one model folder, for one recipe if there is one."""

    folder: Path
    recipe: str | None
    findings: tuple[ModelFinding, ...]

    @property
    def reasons(self) -> list[str]:
        """The sentences with which a run would refuse the model."""
        return [one.found for one in self.findings if one.level == "refused"]

    @property
    def usable(self) -> bool:
        """True if a run would refuse nothing."""
        return not self.reasons


def model_report(folder: Path, recipe: Recipe | None = None) -> ModelReport:
    """Return what a run would find of the model, with the recipe's lengths and samplers if given.

    Raises BadInput when there is no such folder.
    """
    if not folder.is_dir():
        model_folder("--model", str(folder))
    found = [checked("files", partial(_files, folder))]
    if (folder / "config.json").is_file():
        found += ask("rlhf_core.inspection.model:inspect_model", folder)
        if recipe and not refuses(found, "architecture"):
            found += _for_recipe(recipe, folder)
    return ModelReport(folder, recipe.name if recipe else None, tuple(found))


def _files(folder: Path) -> ModelFinding:
    model_folder("--model", str(folder))
    return ok("files", "config.json, tokenizer and safetensors, no pickles")


def _for_recipe(recipe: Recipe, folder: Path) -> list[ModelFinding]:
    checks = {
        "recipe's lengths": (require_context, "the longest prompt and reply fit"),
        "recipe's scalar models": (require_classifier, "can be made from it, or are not asked for"),
        "recipe's samplers": (require_served, "serve it"),
        "recipe's given models": (require_given, "can be used beside it, or there are none"),
    }
    return [
        checked(name, partial(_required, name, check, sentence, recipe, folder))
        for name, (check, sentence) in checks.items()
    ]


def _required(
    name: str, check: Callable[[Recipe, Path], None], sentence: str, recipe: Recipe, folder: Path
) -> ModelFinding:
    check(recipe, folder)
    return ok(name, sentence)

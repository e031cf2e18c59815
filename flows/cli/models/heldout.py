"""`rlhf heldout`: how often a recipe's held-out prompts were used, and fresh ones."""

from typing import TYPE_CHECKING, Annotated, Literal

import typer

from flows.cli.options import AsJson, RecipeName, Settings
from flows.cli.output import print_json
from flows.settings import quiet_libraries

if TYPE_CHECKING:
    from rlhf_core.config import Recipe
    from tasks.leakage.rotation import HeldoutPrompts

HeldoutAction = Annotated[
    Literal["show", "rotate"],
    typer.Argument(
        metavar="show|rotate",
        help="show: the contests so far, and the level of the next. rotate: check the next fold",
    ),
]


def heldout(
    action: HeldoutAction, recipe: RecipeName, settings: Settings = None, as_json: AsJson = False
) -> None:
    """Show how often contests used a recipe's held-out prompts, or offer fresh ones.

    `rotate` takes the next fold that data.heldout_folds has set aside, and checks that no contest
    has looked at its prompts and that the champions were not trained on them. It prints the key to
    set, because a recipe's file is yours. Both validate the data, and train nothing.
    """
    from dataclasses import asdict

    from flows.cli.tables.heldout import fresh_text, use_text
    from rlhf_core.config import load_recipe
    from tasks.leakage.rotation import freshness, use_of
    from tasks.promotion import aliases
    from tasks.promotion.candidates import contest_entries

    quiet_libraries()
    given = settings or []
    loaded = load_recipe(recipe, given)
    following = _next_fold(loaded) if action == "rotate" else None
    registry, _ = aliases.open_registry(loaded.registry.name, must_exist=False)
    confidence = loaded.registry.contest_in_force.confidence
    present = _heldout(recipe, given)
    use = use_of(contest_entries(registry.client, registry.name), present, confidence)
    found = {"recipe": loaded.name, "fold": loaded.data.heldout_fold, "present": asdict(use)}
    lines = [use_text(loaded, use)]
    if following is not None:
        prompts = _heldout(recipe, [*given, following])
        fresh = freshness(registry, present, prompts, confidence)
        found |= {"next": asdict(fresh), "set": following}
        lines += fresh_text(loaded, fresh)  # raises BadInput where they are not fresh
    if as_json:
        print_json(found)
    else:
        print("\n".join(lines))


def _next_fold(recipe: "Recipe") -> str:
    """Return the setting of the next fold. Raises BadInput where none was set aside."""
    from rlhf_core.errors import BadInput

    data = recipe.data
    if source := data.evaluated_prompts:
        raise BadInput(
            f"the held-out prompts of {recipe.name} are those of {source.path}, and no fold of them"
            " was set aside; expected prompts that are split by hash. Give a file of new rows, on"
            " which no model was trained: contests on them begin at 1."
        )
    if data.heldout_fold == data.heldout_folds:
        raise BadInput(
            f"data.heldout_folds of {recipe.name} is {data.heldout_folds}, and fold"
            f" {data.heldout_fold} is in use; expected a fold that was set aside. The other rows"
            " have trained the champion, so that no part of them can measure it: add new rows as"
            " data.prompts_heldout. For the models to come, set data.heldout_folds higher now."
        )
    return f"data.heldout_fold={data.heldout_fold + 1}"


def _heldout(recipe: str, settings: list[str]) -> "HeldoutPrompts":
    """Validate the recipe's data with these settings, and return its held-out prompts."""
    from flows.cli.runs.outcome import raise_error
    from flows.display.run import run_recipe
    from rlhf_core.config import load_recipe
    from rlhf_core.stage_catalogue import PREPARE, VALIDATE
    from tasks.leakage.rotation import SPLIT, HeldoutPrompts
    from tasks.records.workspace import Workspace
    from tasks.stages.trace import inputs

    raise_error(run_recipe(recipe, settings, (None, VALIDATE.name)))
    have = inputs(load_recipe(recipe, settings), Workspace.here(), (PREPARE, VALIDATE))
    return HeldoutPrompts.of(have[SPLIT].path)

"""`rlhf validate`: check a recipe and its data."""

from flows.cli.options import AsJson, Debug, RecipeName, Settings
from flows.cli.runs.outcome import finish


def validate(
    recipe: RecipeName, settings: Settings = None, as_json: AsJson = False, debug: Debug = False
) -> None:
    """Check a recipe and its data files without training; print the data report."""
    from flows.display.run import run_recipe

    finish(run_recipe(recipe, settings or [], (None, "validate"), with_report=True), as_json)

"""`rlhf inspect`: if the pipeline can use a model, and the tokens that the stages read."""

from pathlib import Path
from typing import Annotated

import typer

from flows.cli.options import AsJson, PageFile, Settings, recipe_names
from flows.cli.output import console, print_json, print_page_path, print_parts, write_page
from flows.settings import quiet_libraries
from rlhf_core.errors import BadInput

WIDE = 160  # columns outside a terminal

OptionalRecipe = Annotated[
    str | None,
    typer.Argument(
        metavar="[RECIPE]",
        help="A recipe's name (see rlhf recipes) or a .toml file",
        autocompletion=recipe_names,
    ),
]
ModelFolder = Annotated[
    Path | None,
    typer.Option(
        "--model", metavar="FOLDER", help="Check this model, for the recipe if one is given"
    ),
]
ShownRows = Annotated[
    int, typer.Option(min=1, help="Number of rows to show per stage, the first ones it takes")
]


def inspect(
    recipe: OptionalRecipe = None,
    model: ModelFolder = None,
    rows: ShownRows = 2,
    settings: Settings = None,
    html: PageFile = None,
    as_json: AsJson = False,
) -> None:
    """Check that a model can be used, or show the tokens that the stages read.

    With --model: every check that a run makes of a model before it trains, and what tokenizer and
    chat template do. With a recipe alone: prepares and validates as `rlhf validate` does, then
    shows real rows of each stage with their token ids, which of them are trained, where the score
    is read and where the reply ends; writes one HTML page. Nothing is trained. Exit codes: 0
    usable, 2 not usable.
    """
    if model is not None:
        quiet_libraries()
        _inspect_model(model, recipe, settings or [], as_json)
    elif recipe is not None:
        _inspect_recipe(recipe, settings or [], rows, html, as_json)
    else:
        raise BadInput(
            "rlhf inspect needs a recipe or a model; expected RECIPE, --model FOLDER, or both."
        )


def _inspect_model(folder: Path, recipe: str | None, settings: list[str], as_json: bool) -> None:
    from flows.cli.tables.model_report import model_json, model_parts
    from rlhf_core.config import load_recipe
    from tasks.stages.model_report import model_report

    report = model_report(folder, load_recipe(recipe, settings) if recipe else None)
    if as_json:
        print_json(model_json(report))
    else:
        print_parts(console(WIDE), model_parts(report))
    if not report.usable:
        raise typer.Exit(BadInput.exit_code)


def _inspect_recipe(
    name: str, settings: list[str], rows: int, html: Path | None, as_json: bool
) -> None:
    from flows.cli.runs.outcome import raise_error
    from flows.cli.tables.inspection import inspection_json, inspection_parts
    from flows.display.run import run_recipe
    from flows.report.inspection import inspection_page

    raise_error(run_recipe(name, settings, (None, "validate")))
    from rlhf_core.config import load_recipe
    from tasks.records.workspace import Workspace
    from tasks.stages.inspected import inspect_recipe

    workspace = Workspace.here()
    found = inspect_recipe(load_recipe(name, settings), workspace, rows=rows)
    path = html or workspace.home / "reports" / f"{found.recipe}-inspect.html"
    write_page(path, inspection_page(found))
    if as_json:
        print_json(inspection_json(found) | {"page": str(path)})
        return
    print_parts(console(WIDE), inspection_parts(found))
    print_page_path(path)

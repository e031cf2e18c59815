"""`rlhf init`: the folder that a team begins with."""

from pathlib import Path
from typing import Annotated

import typer

from flows.cli.options import recipe_names

Folder = Annotated[
    Path, typer.Argument(metavar="FOLDER", help="New folder, whose name the recipe gets: my-team")
]
Base = Annotated[
    str,
    typer.Option(
        "--from",
        metavar="RECIPE",
        help="Recipe to extend: a name (see rlhf recipes) or a .toml file",
        autocompletion=recipe_names,
    ),
]


def init(folder: Folder, base: Base = "quickstart") -> None:
    """Make a folder for a team: a recipe, functions, their tests, a deployment.

    The recipe extends another one, with a reward function and a judge as examples. There is a file
    for continuous integration too. It runs as it is. Nothing is overwritten.
    """
    from flows.scaffold.project import create

    made = create(folder, base)
    print(f"made {folder}:")
    for file in made:
        print(f"  {file.relative_to(folder)}")
    print(f"next: cd {folder}, then rlhf validate recipe.toml, rlhf run recipe.toml")
    print("its README.md says in which environment its tests run")

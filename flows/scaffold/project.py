"""Write the folder that `rlhf init` makes: a recipe that extends another, and its functions."""

import json
import os
import re
import tempfile
from importlib.resources import files
from pathlib import Path
from string import Template

from rlhf_core import __version__
from rlhf_core.config import RECIPES, Recipe, load_recipe
from rlhf_core.config.fields import NAME_LENGTH
from rlhf_core.errors import BadInput

# file of the project -> its template
FILES = {
    "recipe.toml": "recipe.toml.template",
    "rewards.py": "rewards.py.template",
    "judge.py": "judge.py.template",
    "prefect.yaml": "prefect.yaml.template",
    "requirements.txt": "requirements.txt.template",
    "README.md": "README.md.template",
    "pytest.ini": "pytest.ini.template",
    ".gitignore": "gitignore.template",
    ".github/workflows/check.yaml": "check.yaml.template",
    "tests/test_recipe.py": "test_recipe.py.template",
    "tests/test_rewards.py": "test_rewards.py.template",
    "tests/test_judge.py": "test_judge.py.template",
}
_OWN_REWARD = '{function = "rewards:distinct", weight = 0.1}'


def create(folder: Path, base: str) -> list[Path]:
    """Make the folder of a project whose recipe extends `base`; return its files.

    The folder appears complete or not at all. Raises BadInput for a folder that exists and for a
    name that no recipe may have, ConfigError for a recipe that is not valid.
    """
    name = _require_name(folder)
    _require_new(folder)
    inherited = load_recipe(base)
    parent = folder.absolute().parent
    values = {
        "name": name,
        "base": _reference(base, folder),
        "version": __version__,
        "functions": ",\n  ".join(_functions(inherited)),
    } | _sections(inherited)
    try:
        with tempfile.TemporaryDirectory(prefix=f".{name}-", dir=parent) as temporary:
            made = Path(temporary) / "project"
            for file, template in FILES.items():
                text = files("flows.scaffold").joinpath("template", template).read_text("utf-8")
                (made / file).parent.mkdir(parents=True, exist_ok=True)
                (made / file).write_text(Template(text).substitute(values), encoding="utf-8")
            if folder.exists():
                folder.rmdir()  # it is empty; rename replaces no folder everywhere
            made.rename(folder)
    except OSError as error:
        raise BadInput(
            f"{folder} cannot be made ({error.strerror}); expected a place in a folder that user"
            f" {os.geteuid()} may write to. Name another place."
        ) from error
    return [folder / file for file in FILES]


def _require_name(folder: Path) -> str:
    name = folder.name
    if not re.fullmatch(r"[a-z0-9][a-z0-9-]*", name) or len(name) > NAME_LENGTH:
        raise BadInput(
            f"{name!r} is no name of a recipe; expected small letters, digits and hyphens, at most"
            f" {NAME_LENGTH}, such as my-team. Its recipe and its models are called so."
        )
    if (RECIPES / f"{name}.toml").exists():
        raise BadInput(
            f"{name!r} is the name of a recipe that comes with the project, and its models have"
            " that name; expected another one, such as my-team."
        )
    return name


def _require_new(folder: Path) -> None:
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise BadInput(f"{folder} exists and is no folder; expected a new name.")
    if folder.is_dir() and any(folder.iterdir()):
        raise BadInput(
            f"{folder} exists and holds files; expected a new or an empty folder. Nothing is"
            " changed. Name another one, or remove it yourself."
        )


def _reference(base: str, folder: Path) -> str:
    """Return how a recipe in the folder names the recipe that it extends."""
    if not base.endswith(".toml"):
        return base
    return os.path.relpath(Path(base).absolute(), folder.absolute())


def _functions(inherited: Recipe) -> list[str]:
    """Return the reward functions, those of the extended recipe first: a list is replaced whole."""
    kept = [
        "{" + ", ".join(f"{key} = {json.dumps(value)}" for key, value in one) + "}"
        for one in (
            function.model_dump(exclude_defaults=True).items()
            for function in inherited.ppo.reward.functions
        )
    ]
    return [*kept, _OWN_REWARD]


def _sections(inherited: Recipe) -> dict[str, str]:
    """Return '' before the sections that the recipe uses, '# ' before those that it cannot."""
    return {
        "reward": "" if inherited.align == "ppo" else "# ",
        "judge": "" if inherited.evaluate.judge is None else "# ",
    }

"""The flow rlhf-watch: emit a Prefect event when the data of a deployment have changed."""

import re
import time
from collections.abc import Iterable
from pathlib import Path

from prefect import flow
from prefect.variables import Variable

from rlhf_core.buckets import is_address
from rlhf_core.config import Recipe
from rlhf_core.digest import digest_json
from rlhf_core.errors import BadInput
from rlhf_core.patterns import is_pattern, is_there, matching_files
from rlhf_core.rundir import Artifact
from tasks.promotion import announce
from tasks.stages import validate
from tasks.stages.spec import local
from tasks.stages.stored.stored_files import listed

SETTLED_SECONDS = 30  # a file that was written to more recently may be incomplete


@flow(name="rlhf-watch", persist_result=False)
def watch(
    recipe: Recipe,
    deployment: str,
    paths: list[str] | None = None,
    settled_seconds: int = SETTLED_SECONDS,
) -> str:
    """Emit 'rlhf.data-changed' if the digest of the data has changed, and return the digest.

    paths: files, folders or addresses to watch instead of the recipe's data files.
    """
    places = watched(recipe, paths)
    option = option_of(paths)
    if _latest_change(places, option) > time.time() - settled_seconds:
        return "still being written"
    found, name = digest(places, option), variable_of(deployment)
    if found != Variable.get(name):
        Variable.set(name, found, overwrite=True)
        announce.publish(
            announce.DATA_CHANGED, announce.data_resource(deployment), {"digest": found}
        )
    return found


def remember_digest(recipe: Recipe, deployment: str, paths: list[str] | None) -> None:
    """Store the digest of the data as they are now, so that only a later change is reported.

    Raises BadInput when there is nothing to watch.
    """
    found = digest(watched(recipe, paths), option_of(paths))
    Variable.set(variable_of(deployment), found, overwrite=True)


def option_of(paths: list[str] | None) -> str:
    """Return the option of `rlhf deploy` that names the places, for its messages."""
    return "--watch" if paths else "--on-data"


def watched(recipe: Recipe, paths: list[str] | None) -> list[Path | str]:
    """Return the files, folders and addresses to watch.

    Raises BadInput for none, or a missing one.
    """
    if paths:
        local_paths = [path for path in paths if not is_address(path)]
        if missing := [path for path in local_paths if not is_there(Path(path))]:
            raise BadInput(f"--watch {missing[0]}: no such file or folder.")
        return [path if is_address(path) else Path(path) for path in paths]
    files = {
        recipe.data.key_of(name): source.path
        for name, source in recipe.data.sources.items()
        if source.format != "hub" and not source.path.startswith(validate.PREPARED)
    }
    found = [path if is_address(path) else local(key, path) for key, path in files.items()]
    if not any(found):
        raise BadInput(
            f"recipe {recipe.name} reads no local data file and no object store, so there is"
            " nothing to watch; give --watch PATH."
        )
    return [path for path in found if path]


def digest(places: list[Path | str], option: str) -> str:
    """Return one digest of everything: of files by their bytes, of objects by their ETags.

    option: that names the places, in messages.
    """
    return digest_json(
        [
            listed(option, place).digest if isinstance(place, str) else Artifact.of(place).digest
            for place in places
        ]
    )


def _latest_change(places: list[Path | str], option: str) -> float:
    return max((time for place in places for time in _changes(place, option)), default=0.0)


def _changes(place: Path | str, option: str) -> list[float]:
    if isinstance(place, str):
        return [one.modified for one in listed(option, place).objects]
    return [file.stat().st_mtime for file in _files(place) if file.is_file()]


def _files(place: Path) -> Iterable[Path]:
    if is_pattern(place):
        return matching_files(place)
    return place.rglob("*") if place.is_dir() else [place]


def data_name(deployment: str) -> str:
    """Return the name of the deployment that watches the data of another one."""
    return f"{deployment}-data"


def variable_of(deployment: str) -> str:
    """Return the name of Prefect's variable with the digest of a deployment's data."""
    return "rlhf_data_" + re.sub("[^a-z0-9]", "_", deployment.lower())

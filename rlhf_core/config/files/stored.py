"""Recipes in an object store: a file of each, in a folder that goes when this process ends."""

import atexit
import shutil
import tempfile
from functools import cache
from pathlib import Path

from rlhf_core.buckets import file_system, is_address, reason
from rlhf_core.errors import ConfigError

_FOLDERS: dict[Path, str] = {}  # of the files here: the address of the folder that each is from


def stored_recipe(name: str, beside: Path | None = None) -> Path | None:
    """Return the file here of a recipe in an object store; None for a recipe that is in none.

    beside: the folder of a recipe that extends this one; a relative name begins where that one is
    from. Raises ConfigError for one that is not there or may not be read.
    """
    if not is_address(name):
        if Path(name).suffix != ".toml" or Path(name).is_absolute() or beside not in _FOLDERS:
            return None
        name = f"{_FOLDERS[beside]}/{name}"
    return _fetched(name)


@cache
def _fetched(address: str) -> Path:
    folder, _, name = address.rpartition("/")
    files, path = file_system("recipe", address)
    try:
        data = files.cat_file(path)
    except Exception as error:
        raise ConfigError(
            f"recipe {address} cannot be read ({reason(error)}); expected a .toml file in a bucket"
            " that your credentials may read."
        ) from error
    here = Path(tempfile.mkdtemp(prefix="rlhf-recipe-"))
    atexit.register(shutil.rmtree, here, ignore_errors=True)
    _FOLDERS[here] = folder
    (here / name).write_bytes(data)
    return here / name

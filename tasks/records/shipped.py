"""The files that the project needs at run time and that are in no package of a checkout.

They are the models' code (`mlflow`) and the locked requirements (`infra/requirements`). A wheel
holds copies of them in `tasks/shipped`, which setup.py writes.
"""

from functools import cache
from importlib.resources import files
from pathlib import Path

from rlhf_core import ROOT
from rlhf_core.digest import digest_file, digest_json

COPIES = Path(str(files("tasks"))).resolve() / "shipped"
PACKAGES = ("flows", "rlhf_core", "tasks")
CONTROL = "control.txt"  # the lock of commands and flows, which compute nothing
FOLDERS = ("mlflow", "infra/requirements")


def is_installed() -> bool:
    """Return True where the project runs from a wheel, False in a checkout."""
    return COPIES.is_dir()


def shipped(folder: str) -> Path:
    """Return one of FOLDERS: of the checkout, or its copy in the wheel."""
    return (COPIES if is_installed() else ROOT) / folder


def locks() -> list[Path]:
    """Return the files of locked requirements with which stages run, in order of their names."""
    found = sorted(shipped("infra/requirements").glob("*.txt"))
    return [file for file in found if file.name != CONTROL]


@cache
def code_files_digest() -> str:
    """Return the sha256 (hex) over names and bytes of the project's files, without compiled ones.

    A wheel and the source tree that it was built from have the same digest.
    """
    found = {
        file.relative_to(ROOT).as_posix(): file
        for package in PACKAGES
        for file in (ROOT / package).rglob("*")
        if COPIES not in file.parents
    } | {f"{name}/{file.name}": file for name in FOLDERS for file in shipped(name).iterdir()}
    wanted = {name: file for name, file in found.items() if _is_code(file)}
    return digest_json([[name, digest_file(file)] for name, file in sorted(wanted.items())])


def _is_code(file: Path) -> bool:
    """Return True for a file that a wheel holds."""
    if file.parent.name == "mlflow":
        return file.name.endswith("_model.py")
    return file.is_file() and "__pycache__" not in file.parts and file.suffix != ".pyc"

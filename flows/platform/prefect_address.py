"""Find the address of the Prefect server that runs use, and the place that names it.

Prefect reads it from the environment, from .env, prefect.toml and pyproject.toml in the current
folder, and from the active profile in PREFECT_HOME, in this order.
"""

import os
import tomllib
from dataclasses import dataclass
from pathlib import Path

VARIABLE = "PREFECT_API_URL"


@dataclass(frozen=True)
class PrefectAddress:
    """The address of a Prefect server. place: where it is set. fix: how to run without it."""

    url: str
    place: str
    fix: str


def configured() -> PrefectAddress | None:
    """Return the server that Prefect's settings name; None where a run starts its own."""
    from prefect.settings import PREFECT_HOME

    from tasks.execution.prefect_server import lasting_server

    url = lasting_server()
    if not url:
        return None
    if named := in_environment(url):
        return named
    profiles = Path(PREFECT_HOME.value()) / "profiles.toml"
    return in_files(url, Path.cwd(), profiles) or PrefectAddress(
        url, "Prefect's settings", "prefect config view --show-sources says where it is set"
    )


def is_named() -> bool:
    """Return True when the environment or a file names a server. Does not import Prefect."""
    profiles = Path(os.environ["PREFECT_HOME"], "profiles.toml")  # set by flows/settings.py
    return bool(in_environment("") or in_files("", Path.cwd(), profiles))


def in_environment(url: str) -> PrefectAddress | None:
    """Return the address as the environment gives it, or None."""
    if not os.environ.get(VARIABLE):
        return None
    return PrefectAddress(url, VARIABLE, f"unset {VARIABLE} to run without it")


def in_files(url: str, folder: Path, profiles: Path) -> PrefectAddress | None:
    """Return the address with the first file that sets it, in Prefect's order, or None."""
    if (file := folder / ".env").is_file() and VARIABLE in _text(file).upper():
        return _in_file(url, f"{VARIABLE} in {file}", f"remove {VARIABLE} from {file}")
    for name, keys in (
        ("prefect.toml", ("api", "url")),
        ("pyproject.toml", ("tool", "prefect", "api", "url")),
    ):
        if _value(folder / name, *keys):
            place = f"{'.'.join(keys)} in {folder / name}"
            return _in_file(url, place, f"remove {'.'.join(keys)} from {folder / name}")
    profile = os.environ.get("PREFECT_PROFILE") or _value(profiles, "active")
    if isinstance(profile, str) and _value(profiles, "profiles", profile, VARIABLE):
        place = f"{VARIABLE} of the profile {profile!r} in {profiles}"
        return _in_file(url, place, f"run prefect config unset {VARIABLE}")
    return None


def _in_file(url: str, place: str, fix: str) -> PrefectAddress:
    return PrefectAddress(url, place, f"{fix} to run without it, or set {VARIABLE} to another")


def _text(file: Path) -> str:
    return file.read_text(encoding="utf-8", errors="replace")


def _value(file: Path, *keys: str) -> object:
    """Return a value of a TOML file; None where there is no such file or key."""
    try:
        found: object = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    for key in keys:
        found = found.get(key) if isinstance(found, dict) else None
    return found

"""Check proxies, the home folder, the workspace, the current folder, and servers left behind."""

import os
import sys
from importlib.machinery import PathFinder
from pathlib import Path

import psutil

from flows import environment
from flows.platform.doctor_packages import HealthCheck
from rlhf_core.errors import BadInput
from tasks.execution import group_guard
from tasks.records.workspace import Workspace

SERVER = "prefect.server.api.server:create_app"  # in the command of Prefect's ephemeral server


def proxies() -> HealthCheck:
    """Check that httpx can use the proxies that the environment names."""
    if environment.unusable_proxies:
        found = "; ".join(
            f"{name}: {reason}" for name, reason in environment.unusable_proxies.items()
        )
        fix = "as said; without it runs connect directly"
        return HealthCheck("proxies", "warn", found, fix)
    if not (named := environment.proxies()):
        return HealthCheck("proxies", "ok", "none")
    found = f"{', '.join(named)}; not used for {os.environ['NO_PROXY']}"
    return HealthCheck("proxies", "ok", found)


def home() -> HealthCheck:
    """Check that the home folder can be written; libraries keep caches there."""
    if environment.replaced_homes:
        reasons = "; ".join(environment.replaced_homes)
        found = f"{reasons}; caches go to {os.environ['HOME']}"
        fix = "set HOME to a folder in which you may write, to share caches between workspaces"
        return HealthCheck("home folder", "warn", found, fix)
    if hub := environment.unwritable_hub_caches():
        found = ", ".join(f"{name}={place}" for name, place in hub.items())
        fix = "nothing for models and data that are there; for others, name a folder of your own"
        return HealthCheck("home folder", "warn", f"{found} cannot be written", fix)
    return HealthCheck("home folder", "ok", str(environment.home_folder()))


def workspace(place: Workspace) -> HealthCheck:
    """Check that a run can write to the workspace."""
    try:
        place.require_writable()
    except BadInput as error:
        return HealthCheck("workspace", "fail", str(error), "set RLHF_HOME to another folder")
    return HealthCheck("workspace", "ok", f"{place.home} can be written")


def current_folder(folder: Path) -> HealthCheck:
    """Check that no file has a library's name: a stage imports the library instead."""
    names = {path.stem for path in folder.glob("*.py")}
    names |= {path.parent.name for path in folder.glob("*/__init__.py")}
    others = [place for place in sys.path if place and Path(place).resolve() != folder.resolve()]
    taken = sorted(name for name in names if _is_library(name, others))
    if taken:
        found = f"{', '.join(taken)} in {folder}: a library has this name, and stages import it"
        fix = "nothing, unless a recipe names a function in it; then rename the file"
        return HealthCheck("current folder", "warn", found, fix)
    return HealthCheck("current folder", "ok", "no file has the name of a library")


def _is_library(name: str, places: list[str]) -> bool:
    """Return True when the standard library or an installed package has this name."""
    if name in sys.stdlib_module_names:
        return True
    found = PathFinder.find_spec(name, places)
    return found is not None and found.origin is not None  # else a folder without __init__.py


def left_servers() -> HealthCheck:
    """Check for Prefect servers whose run was killed; an earlier version left them behind."""
    left = [
        process
        for process in psutil.process_iter(["cmdline"])
        if _is_server(process.info["cmdline"] or []) and _is_orphan(process)
    ]
    if not left:
        return HealthCheck("left servers", "ok", "none")
    numbers = " ".join(str(process.pid) for process in left)
    found = f"{len(left)} Prefect servers run on after their run was killed: {numbers}"
    return HealthCheck("left servers", "warn", found, f"kill {numbers}")


def _is_server(command: list[str]) -> bool:
    """Return True for the server itself; its guard, which ends with the run, names it too."""
    guard = Path(group_guard.__file__).name  # of any installation
    return SERVER in command and guard not in {Path(word).name for word in command}


def _is_orphan(process: psutil.Process) -> bool:
    """Return True for a process of this user whose parent has ended.

    It then has another parent, which is not of its session.
    """
    try:
        own = process.uids().real == os.getuid()
        return own and os.getsid(process.pid) != os.getsid(process.ppid())
    except (psutil.Error, OSError):  # it has ended meanwhile
        return False

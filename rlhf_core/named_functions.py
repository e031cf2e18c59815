"""Functions that a recipe names: as 'module:function', or by a name that a package offers.

An installed package offers a function as an entry point of one of the groups below:

    [project.entry-points."rlhf.rewards"]
    polite = "my_package.rules:polite"
"""

import importlib
import importlib.util
import re
import sys
from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

from rlhf_core.errors import BadInput

REWARDS, JUDGES, READERS = "rlhf.rewards", "rlhf.judges", "rlhf.readers"
NAME = r"^([\w.]+:\w+|\w[\w.-]*)$"  # of a function in a recipe


def is_offered(name: str) -> bool:
    """Return True for a name that a package must offer, False for 'module:function'."""
    return ":" not in name


def module_and_function(subject: str, name: str, group: str | None) -> str:
    """Return 'module:function' of a function that is named in either way.

    subject: the beginning of a message, such as "the judge 'exact'". group: of entry points; None
    where only 'module:function' is allowed. Raises BadInput for a name that no package offers, or
    that several do.
    """
    if group is None or not is_offered(name):
        return name
    offered = entry_points(group=group)
    found = {(_package(point), point.value) for point in offered if point.name == name}
    if not found:
        known = ", ".join(sorted(offered.names)) or "none are installed"
        raise BadInput(
            f"{subject}: no installed package offers this name (entry points {group}: {known});"
            " expected one of these, or 'module:function'. Install the package, or correct the"
            " name."
        )
    if len(found) > 1:
        places = " and ".join(f"{package} ({value})" for package, value in sorted(found))
        raise BadInput(
            f"{subject}: several packages offer this name (entry points {group}): {places};"
            " expected one. Name 'module:function', or uninstall the others."
        )
    ((package, value),) = found
    if not re.fullmatch(r"[\w.]+:\w+", value):
        raise BadInput(
            f"{subject}: {package} offers it as {value!r} (entry points {group}); expected"
            " 'module:function'. Correct the package."
        )
    return value


def located(subject: str, name: str, group: str | None) -> tuple[str, Path | None]:
    """Return 'module:function' of a function, and the file of its module; nothing of it runs.

    The current folder is searched first. The file is None where there is none. subject, group: as
    of `module_and_function`, which raises.
    """
    name = module_and_function(subject, name, group)
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        found = importlib.util.find_spec(name.partition(":")[0])
    except (ImportError, ValueError):
        found = None
    finally:
        sys.path.remove(here)
    if found is None or not found.has_location:
        return name, None
    return name, Path(str(found.origin))


def load_function(name: str, role: str, group: str | None = None) -> Callable:
    """Return the function behind 'module:function', or behind a name that a package offers.

    `role` names its purpose in messages. Raises BadInput when there is no such function.
    """
    subject = f"the {role} {name!r}"
    module, _, attribute = module_and_function(subject, name, group).partition(":")
    try:
        function = getattr(importlib.import_module(module), attribute)
    except Exception as error:  # a module may raise anything while it is imported
        raise BadInput(
            f"{subject} cannot be imported ({error}); expected 'module:function'"
        ) from None
    if not callable(function):
        raise BadInput(f"{subject} is a {type(function).__name__}; expected a function")
    return function


def _package(point: EntryPoint) -> str:
    return point.dist.name if point.dist else "an unnamed package"

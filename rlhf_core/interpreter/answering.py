"""Call a function by its name, and return what it gave in a form that another process reads."""

import importlib
import sys
import traceback
from dataclasses import dataclass
from pkgutil import resolve_name
from typing import Any

from rlhf_core.digest import code_digest
from rlhf_core.errors import BadInput, RLHFError


@dataclass(frozen=True)
class CallResult:
    """What a call gave: its value, or an error of this project (class, message, code), or neither.

    failed: the last line of any other exception; traceback: all lines of it.
    """

    value: Any = None
    error: tuple[str, str, str] | None = None
    failed: str = ""
    traceback: str = ""


def import_ahead(*modules: str) -> None:
    """Import modules that later calls need."""
    for name in modules:
        importlib.import_module(name)


def running_code() -> str:
    """Return the digest of the code that answers: the caller's must be the same."""
    return code_digest()


def answer(name: str, arguments: tuple[Any, ...], named: dict[str, Any]) -> CallResult:
    """Call 'module:function' and return what it gave or raised."""
    try:
        return CallResult(resolve_name(name)(*arguments, **named))
    except RLHFError as error:
        return CallResult(error=(type(error).__name__, str(error), error.code))
    except ImportError as error:
        message = (
            f"{name} cannot import what it needs in {sys.executable}: {error}. A package is missing"
            " or damaged there; rlhf doctor says which, and how to install it."
        )
        return CallResult(error=(BadInput.__name__, message, ""))
    except Exception as error:
        last = traceback.format_exception_only(error)[-1].strip()
        return CallResult(failed=last, traceback=traceback.format_exc())

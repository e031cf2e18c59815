"""Print for the commands: tables, JSON and pages."""

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from rlhf_core.errors import BadInput, RLHFError

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

WIDE = 200  # columns outside a terminal
UNFOLDED = 1000  # columns outside a terminal of a table whose cells are long


def console(width: int = WIDE) -> "Console":
    """Return standard output, as wide as the terminal, or `width` columns outside a terminal."""
    from rich.console import Console

    found = Console()
    return found if found.is_terminal else Console(width=width)


def print_json(value: object) -> None:
    """Print a value as indented JSON; what JSON does not know is printed as text."""
    print(json.dumps(value, indent=2, default=str))


def print_parts(out: "Console", parts: Iterable["RenderableType"]) -> None:
    """Print tables and texts; a text stands on one line, however long it is."""
    from rich.text import Text

    for part in parts:
        out.print(part, soft_wrap=isinstance(part, Text))


def print_page_path(path: Path) -> None:
    """Print where a page was written."""
    console().print(f"Page: {path}", soft_wrap=True, markup=False, highlight=False)


def warn_without_stages() -> None:
    """Print one line on standard error where no run that starts on this machine can begin."""
    from tasks.execution.stage_calls import require_stages

    try:
        require_stages()
    except BadInput as error:
        print(f"rlhf: warning: runs cannot start here: {error}", file=sys.stderr, flush=True)


def write_page(path: Path, page: str, *, named_by: str = "--html") -> Path:
    """Write an HTML page, make its folder when absent, and return its path.

    named_by: what names the file on the command line. Raises RLHFError.
    """
    from rlhf_core.rundir import write_atomically

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_symlink() or (path.exists() and not path.is_file()):
            path.write_text(page, encoding="utf-8")  # a link or a device is not replaced
        else:
            write_atomically(path, page)
    except OSError as error:
        raise RLHFError(
            f"the page cannot be written to {path} ({error}). Give another file with {named_by}."
        ) from None
    return path

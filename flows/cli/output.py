"""What the commands print with: tables as wide as they need outside a terminal, JSON, and the
options that all share.
"""

import json
import os
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import Console

WIDE = 200  # columns of a table that is not printed to a terminal: nothing is folded


def console() -> "Console":
    """Standard output: as wide as the terminal, or WIDE."""
    from rich.console import Console

    found = Console()
    return found if found.is_terminal else Console(width=WIDE)


def print_json(value: object) -> None:
    """What --json prints."""
    print(json.dumps(value, indent=2, default=str))


def debugging() -> bool:
    """Whether tracebacks and Prefect's log are wanted."""
    return os.environ.get("RLHF_DEBUG", "") not in ("", "0")


def _set_debug(debug: bool) -> bool:
    if debug:
        os.environ["RLHF_DEBUG"] = "1"
    return debug


AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON on standard output")]
Debug = Annotated[
    bool,
    typer.Option(
        "--debug",
        callback=_set_debug,
        help="Show the traceback of an error, and Prefect's log (RLHF_DEBUG=1)",
    ),
]

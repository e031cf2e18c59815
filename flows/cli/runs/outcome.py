"""Print what a run left, and end with its exit code."""

import sys
from typing import TYPE_CHECKING

import typer

from flows.cli.output import console, print_json, print_parts
from flows.settings import debugging

if TYPE_CHECKING:
    from flows.display.outcome import RunOutcome


def finish(outcome: "RunOutcome", as_json: bool) -> None:
    """Print what a run left, and end with its exit code if it ended with an error."""
    if as_json:
        print_json(outcome.as_json())
    else:
        out = console()
        print_parts(out, outcome.tables(full_links=not out.is_terminal))
    raise_error(outcome)


def raise_error(outcome: "RunOutcome") -> None:
    """Raise the error that a run ended with; only its exit code when the display has shown it."""
    if outcome.error is None:
        return
    if str(outcome.error) in outcome.told and not debugging():
        if outcome.error.code:
            print(f"What to do: rlhf explain {outcome.error.code}", file=sys.stderr)
        raise typer.Exit(outcome.error.exit_code)
    raise outcome.error

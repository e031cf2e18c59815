"""`rlhf history`: the champions of a model and every attempt to change them."""

import sys
from typing import Annotated

import typer

from flows.api.registered_models import registry
from flows.cli.models.request import ModelName
from flows.cli.options import AsJson
from flows.cli.output import console, print_json

Verify = Annotated[
    bool, typer.Option("--verify", help="Exit with 3 if an entry was altered or deleted.")
]


def history(name: ModelName, as_json: AsJson = False, verify: Verify = False) -> None:
    """List every attempt to change the champion.

    Attempts that were killed are completed or undone first. A name that no model has is refused. An
    entry that was altered or deleted after a later one began is a problem, which is printed; with
    --verify it ends with exit code 3.
    """
    found = registry(name).history()
    from flows.cli.tables.history import history_json, history_table
    from rlhf_core.errors import PromotionRefused
    from tasks.promotion.ledger_chain import chain_problem, covered

    if as_json:
        print_json(history_json(found))
    elif found.entries:
        console().print(history_table(found.name, found))
    else:
        print(f"No attempt to promote {found.name} is recorded.")
    if verify and (altered := chain_problem(found.entries)):
        raise PromotionRefused(altered)
    for problem in [] if as_json else found.problems:
        print(problem, file=sys.stderr)
    if verify and not as_json:
        print(_verified(covered(found.entries)))


def _verified(last: int) -> str:
    """Return what an unaltered ledger shows, whose entries 1 to `last` are covered."""
    if not last:
        return "Nothing to verify yet: no entry has a later one that holds its digest."
    return f"Entries that a later one vouches for: 1 to {last}, unaltered."

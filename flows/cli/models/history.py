"""`rlhf history`: the champions of a model and every attempt to change them."""

import sys

from flows.cli.models.request import ModelName
from flows.cli.options import AsJson
from flows.cli.output import console, print_json
from flows.settings import quiet_libraries


def history(name: ModelName, as_json: AsJson = False) -> None:
    """List every attempt to change the champion.

    Attempts that were killed are completed or undone first.
    """
    quiet_libraries()
    from flows.cli.tables.history import history_json, history_table
    from tasks.promotion import aliases, promotion

    where, _ = aliases.open_registry(name, must_exist=False)
    found = promotion.history(where)
    if as_json:
        print_json(history_json(found))
        return
    if found.entries:
        console().print(history_table(where.name, found))
    else:
        print(f"No attempt to promote {where.name} is recorded.")
    for problem in found.problems:
        print(problem, file=sys.stderr)

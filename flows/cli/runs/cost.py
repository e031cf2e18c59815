"""`rlhf cost`: hours of cores and GPUs, energy and money."""

from typing import TYPE_CHECKING, Annotated

import typer

from flows.api.costs import cost as costs
from flows.cli.options import AsJson, Filters
from flows.cli.output import console, print_json

if TYPE_CHECKING:
    from flows.api.costs import Costs

GroupOf = Annotated[
    str,
    typer.Option(help="recipe, stage, run, status, day, month, or a recipe key, e.g. model.base"),
]
SinceSpan = Annotated[
    str | None, typer.Option(metavar="SPAN", help="Only runs since: 30d, 12h, 2w or 2026-11-01")
]


def cost(
    filters: Filters = None,
    by: GroupOf = "recipe",
    since: SinceSpan = None,
    as_json: AsJson = False,
) -> None:
    """Sum up what runs took: hours of cores and GPUs, energy, money by a price table.

    A core's hours are those at work, a GPU's those reserved. Energy is that of whole devices, where
    their drivers count it (NVML, RAPL). A stage that a run took from an
    earlier one counts there alone. Prices are in the TOML file that RLHF_PRICES names, or in
    prices.toml of the workspace: currency, cpu_hour, gpu_hour, and by name in [gpu].
    """
    found = costs(*(filters or []), by=by, since=since)
    if as_json:
        print_json(found.as_json())
    elif not found.rows:
        print(_nothing(filters or [], since))
    else:
        _print(found)


def _nothing(filters: list[str], since: str | None) -> str:
    """Return which runs there are none of, and whose runs there are."""
    when = " in that time" if since else ""
    if not filters:
        return f"No runs{when}."
    recipes = sorted(row.group for row in costs(since=since).rows)
    return (
        f"No runs of {' '.join(filters)}{when}; there are runs of {', '.join(recipes) or 'none'}."
    )


def _print(found: "Costs") -> None:
    from flows.cli.tables.cost import cost_table, energy_note

    console().print(cost_table(found))
    if note := energy_note(found):
        print(note)
    if not found.priced:
        print("Without prices; rlhf cost --help says where they are.")

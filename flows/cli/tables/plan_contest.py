"""The plan of contests as a table, and what it says of the given prompts in one sentence."""

from collections.abc import Iterator

from rich.table import Table
from rich.text import Text

from rlhf_core.config import Recipe
from rlhf_core.contest.plan import ContestWish, PlannedContest

HEAD = ("contest", "level", "wins needed", "power", "effect shown", "prompts needed")


def contest_parts(
    recipe: Recipe, wish: ContestWish, found: list[PlannedContest]
) -> Iterator[Table | Text]:
    """Yield the table, one row per contest, and the sentences about it."""
    table = Table(
        title=f"Contests of {recipe.name} on {wish.prompts} decided held-out prompts",
        title_justify="left",
    )
    for column in HEAD:
        table.add_column(column, justify="right", no_wrap=True)
    for one in found:
        table.add_row(
            str(one.look),
            f"{one.level:.2g}",
            "none" if one.wins_needed is None else str(one.wins_needed),
            f"{one.power:.0%}",
            "none" if one.detectable_effect is None else f"{one.detectable_effect:+.1%}",
            "none" if one.prompts_needed is None else str(one.prompts_needed),
        )
    yield table
    yield Text(_verdict(recipe, wish, found[0]))
    yield Text(
        "power: for a candidate that truly wins"
        f" {0.5 + wish.effect:.1%}; effect shown: with power {wish.power:.0%}. Ties are no decided"
        " prompts. Where two comparisons decide, both must be won, which is rarer."
    )


def _verdict(recipe: Recipe, wish: ContestWish, first: PlannedContest) -> str:
    effect, enough = f"{0.5 + wish.effect:.1%}", first.prompts_needed
    if enough is not None and enough <= wish.prompts:
        return (
            f"Enough: contest {first.look} needs {enough} decided prompts to show {effect} with"
            f" power {wish.power:.0%}."
        )
    wanted = "more than can be had" if enough is None else str(enough)
    return (
        f"Too few: contest {first.look} needs {wanted} decided prompts to show {effect} with power"
        f" {wish.power:.0%}. Raise evaluate.max_prompts ({recipe.evaluate.max_prompts}) and hold"
        " out as many, take other held-out prompts, or look for a larger effect."
    )

"""`rlhf plan-contest`: the held-out prompts that a contest with the champion needs."""

from typing import Annotated

import typer

from flows.cli.options import AsJson, RecipeName, Settings
from flows.cli.output import console, print_json, print_parts

Effect = Annotated[
    float,
    typer.Option(
        min=0.001, max=0.5, help="Share of decided prompts truly won, above one half: 0.1 is 60%"
    ),
]
Power = Annotated[
    float, typer.Option(min=0.05, max=0.999, help="Probability that such a candidate is promoted")
]
Prompts = Annotated[
    int | None, typer.Option(min=1, help="Decided held-out prompts (default: evaluate.max_prompts)")
]
Place = Annotated[
    int, typer.Option("--contest", min=1, help="Which contest on these held-out prompts it is")
]


def plan_contest(
    recipe: RecipeName,
    effect: Effect = 0.1,
    power: Power = 0.8,
    prompts: Prompts = None,
    contest: Place = 1,
    settings: Settings = None,
    as_json: AsJson = False,
) -> None:
    """Say how many held-out prompts a contest with the champion needs.

    Also say what the given ones can show. Later contests on the same prompts need more. Nothing is
    loaded or trained.
    """
    from dataclasses import asdict

    from flows.cli.tables.plan_contest import contest_parts
    from rlhf_core.config import load_recipe
    from rlhf_core.contest.plan import ContestWish, plan_contests
    from rlhf_core.errors import BadInput

    loaded = load_recipe(recipe, settings or [])
    rule, given = loaded.registry.contest_in_force, prompts or loaded.evaluate.max_prompts
    if effect <= rule.min_effect:
        raise BadInput(
            f"--effect {effect:g} is not above registry.contest.min_effect {rule.min_effect:g}: no"
            " number of prompts shows it. Raise --effect, or lower min_effect."
        )
    wish = ContestWish(effect, power, given, contest)
    found = plan_contests(rule, wish)
    if as_json:
        print_json(
            {"recipe": loaded.name, **asdict(wish), "contests": [asdict(one) for one in found]}
        )
    else:
        print_parts(console(), contest_parts(loaded, wish, found))

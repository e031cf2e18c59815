"""`rlhf iterate`: rounds of labelling and training, offline."""

from typing import TYPE_CHECKING, Annotated, Literal

import typer

from flows.cli.options import AsJson, Debug, RecipeName, Settings
from flows.cli.output import UNFOLDED, console, print_json, print_parts
from flows.settings import quiet_libraries

if TYPE_CHECKING:
    from rlhf_core.labels.candidates import PairSource

KNOWN: "tuple[PairSource, ...]" = ("onpolicy", "contested", "mistakes")

RoundCount = Annotated[
    int, typer.Option("--rounds", min=1, help="Rounds after round 0, which is the recipe's own run")
]
RoundPairs = Annotated[int, typer.Option("--labels", min=1, help="Pairs to label in each round")]
LabelledBy = Annotated[
    str | None,
    typer.Option(
        "--by",
        metavar="WHO",
        help=(
            "Who labels: judge (evaluate.judge), simulated (the quickstart's annotators), or"
            " MODULE:FUNCTION, a function of yours (default: the recipe's judge; simulated for the"
            " quickstart)"
        ),
    ),
]
RoundSources = Annotated[
    str,
    typer.Option(
        "--from",
        metavar="SOURCE,...",
        help=(
            "Where pairs come from: onpolicy (fresh pairs of the champion), contested (pairs on"
            " which raters differ), mistakes (training pairs that its reward model gets wrong)"
        ),
    ),
]
RoundPick = Annotated[
    Literal["random", "uncertain", "disagreement", "diverse"],
    typer.Option("--pick", help="Which pairs of a source, as in rlhf label open"),
]
ContinueReward = Annotated[
    bool,
    typer.Option(
        "--continue-reward",
        help="Train each round's reward model on from the champion's, not anew from the SFT model",
    ),
]


def iterate(
    recipe: RecipeName,
    rounds: RoundCount = 3,
    labels: RoundPairs = 200,
    by: LabelledBy = None,
    pick: RoundPick = "random",
    sources: RoundSources = "onpolicy",
    continue_reward: ContinueReward = False,
    settings: Settings = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Run rounds of labelling and training, each from the champion so far.

    Round 0 is the recipe's own run. Each further round samples pairs of replies with the champion,
    has them labelled, and runs the recipe on the labels of all rounds so far; the new policy
    contests the champion. A round that is refused is a result, and the next one goes on from the
    present champion. The same command goes on where it was stopped.
    """
    quiet_libraries()
    from flows.iterate.loop import run_iteration
    from flows.iterate.plan import IterationOptions, make_plan
    from flows.iterate.table import result_lines

    options = IterationOptions(rounds, labels, _sources(sources), pick, by, continue_reward)
    plan = make_plan(recipe, settings or [], options)
    result = run_iteration(plan, lambda text: typer.echo(text, err=True))
    if as_json:
        print_json(result.as_json())
    else:
        out = console(UNFOLDED)
        print_parts(out, result_lines(result, full_links=not out.is_terminal))


def _sources(text: str) -> "tuple[PairSource, ...]":
    from flows.cli.labels.options import listed
    from rlhf_core.errors import BadInput

    names = listed(text)
    if not names or set(names) - set(KNOWN):
        raise BadInput(f"--from is {text!r}; expected some of {', '.join(KNOWN)}, with commas.")
    return tuple(name for name in KNOWN if name in names)

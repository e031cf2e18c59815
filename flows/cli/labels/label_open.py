"""`rlhf label open`: pairs go to people, by MLflow's review queues."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from flows.cli.labels.options import listed
from flows.cli.options import AsJson, RunName
from flows.cli.output import print_json

if TYPE_CHECKING:
    from rlhf_core.labels.candidates import PairSource

FromSources = Annotated[
    str,
    typer.Option(
        "--from",
        metavar="SOURCE,...",
        help=(
            "Where pairs come from: onpolicy (fresh pairs of the policy on training prompts),"
            " contested (pairs on which reward models, judge and people differ), mistakes (training"
            " pairs that the reward model gets wrong, the surest first), live (a kept reply of the"
            " live model and a fresh one of the policy)"
        ),
    ),
]
PairCount = Annotated[int, typer.Option("--pairs", min=1, help="Pairs to label, gold items apart")]
Annotators = Annotated[
    str,
    typer.Option(
        metavar="NAME,...", help="Who labels: accounts of MLflow's server, where it has accounts"
    ),
]
Overlap = Annotated[
    float,
    typer.Option(min=0, max=1, help="Share of the pairs that three people label (all, of fewer)"),
]
PickWay = Annotated[
    Literal["random", "uncertain", "disagreement", "diverse"],
    typer.Option("--pick", help="Which pairs of a source: see the page on labels"),
]
OwnName = Annotated[
    str | None, typer.Option("--name", help="The campaign's name (default: week-NUMBER)")
]
GoldFile = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="JSON Lines {prompt, chosen, rejected} with known answers, which everybody labels",
    ),
]
PageCharacters = Annotated[
    int,
    typer.Option(
        min=200,
        help=(
            "Characters of prompt, and of both replies, on MLflow's page; the rest is behind View"
            " full trace. A server on PostgreSQL takes 1000 at most"
        ),
    ),
]
PickSeed = Annotated[int, typer.Option("--seed", min=0, help="Of sampling, picking and sides")]


def label_open(
    run: RunName,
    annotators: Annotators,
    sources: FromSources = "onpolicy",
    pairs: PairCount = 200,
    overlap: Overlap = 0.25,
    pick: PickWay = "random",
    name: OwnName = None,
    gold: GoldFile = None,
    page_characters: PageCharacters = 1000,
    seed: PickSeed = 1,
    as_json: AsJson = False,
) -> None:
    """Have people compare replies in MLflow: pick pairs, a queue per person.

    The pairs are made by the run's policy and scored by its reward model, from training prompts and
    training pairs, and from live replies that were kept; never from held-out prompts. Each person
    gets a review queue in MLflow, sees a prompt and two replies in random order without the models'
    names, and answers. Called again for a name whose opening was stopped, it completes that one.
    """
    from flows.api.labelling import open_campaign

    campaign = open_campaign(
        name or _this_week(),
        run,
        listed(annotators),
        sources=_sources(sources),
        pairs=pairs,
        overlap=overlap,
        pick=pick,
        gold=gold,
        seed=seed,
        page_characters=page_characters,
    )
    asked = {one: len(campaign.queue(one)) for one in campaign.pages}
    if as_json:
        print_json({"name": campaign.name, "pairs": asked, "pages": campaign.pages})
        return
    print(f"Campaign {campaign.name}: {campaign.num_pairs} pairs.")
    for one, page in campaign.pages.items():
        print(f"{one}: {asked[one]} pairs: {page}")


def _sources(text: str) -> "list[PairSource]":
    from typing import get_args

    from rlhf_core.errors import BadInput
    from rlhf_core.labels.candidates import PairSource

    names = list(dict.fromkeys(listed(text)))
    known = get_args(PairSource)
    if not names or set(names) - set(known):
        raise BadInput(f"--from is {text!r}; expected some of {', '.join(known)}, with commas.")
    return [name for name in known if name in names]


def _this_week() -> str:
    from datetime import UTC, datetime

    return f"week-{datetime.now(UTC).isocalendar().week}"

"""The options that several commands of labelling share."""

from pathlib import Path
from typing import Annotated, Literal

import typer

LeastAlpha = Annotated[
    float | None,
    typer.Option(
        "--min-alpha",
        min=-1.0,
        max=1.0,
        help=(
            "Refuse (exit 3) where the lower end of the 95% interval of Krippendorff's alpha is"
            " below this"
        ),
    ),
]
OutFile = Annotated[
    Path,
    typer.Option(
        "--out",
        metavar="FILE.jsonl",
        help="New file for the comparisons; FILE.labels beside it gets votes, report, provenance",
    ),
]
Weigh = Annotated[
    Literal["none", "dawid-skene"],
    typer.Option(
        "--weights",
        help="How votes count: all the same, or by each annotator's accuracy (Dawid-Skene)",
    ),
]
RealNames = Annotated[
    bool,
    typer.Option("--names", help="Keep the annotators' names in the data, not their pseudonyms"),
]
CampaignName = Annotated[
    str, typer.Argument(metavar="NAME", help="The campaign's name, as rlhf label open printed it")
]


def listed(text: str | None) -> list[str]:
    """Return the names in 'a,b', blanks and empty ones left out."""
    return [name.strip() for name in (text or "").split(",") if name.strip()]

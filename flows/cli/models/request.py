"""Options of `rlhf promote` and `rlhf rollback`, and the printed result."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from flows.cli.output import print_json
from rlhf_core.errors import PromotionRefused

if TYPE_CHECKING:
    from tasks.promotion.promotion import PromotionResult
    from tasks.promotion.rehearsal import Rehearsal

ModelName = Annotated[
    str,
    typer.Argument(
        metavar="NAME",
        help=(
            "registry.name of a recipe; with -reward the reward model is meant, with -candidate"
            " what waits for a promoter (registry.separate_promoter)"
        ),
    ),
]
Reason = Annotated[str, typer.Option(metavar="TEXT", help="Reason, kept in the ledger")]
Adopt = Annotated[
    bool,
    typer.Option(
        "--adopt",
        help="Go on although aliases were moved without the ledger; needs --reason, recorded",
    ),
]


Rehearse = Annotated[
    bool,
    typer.Option(
        "--dry-run",
        help="Say what would happen, with every check, and write nothing; exit 3: refused",
    ),
]


def print_rehearsal(found: "Rehearsal", as_json: bool) -> None:
    """Print what a promotion or rollback would do. Raises typer.Exit(3) where it is refused."""
    if as_json:
        print_json(asdict(found) | {"allowed": found.allowed, "reason": found.reason})
    else:
        words = {True: "ok", False: "refused", None: "not tried"}
        for step in found.steps:
            print(f"{step.name:<17} {words[step.passed]:<9}  {step.reason}")
        print(found.reason)
    if not found.allowed:
        raise typer.Exit(PromotionRefused.exit_code)


def print_result(result: "PromotionResult", as_json: bool) -> None:
    """Print what a promotion or rollback did."""
    if as_json:
        print_json(vars(result))
    else:
        print(result.reason)

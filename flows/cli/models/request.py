"""Options of `rlhf promote` and `rlhf rollback`, their checks, and the printed result."""

from typing import TYPE_CHECKING, Annotated, TypedDict

import typer

from flows.cli.output import print_json
from flows.settings import quiet_libraries
from rlhf_core.errors import BadInput

if TYPE_CHECKING:
    from tasks.promotion.promotion import PromotionResult

LONGEST = 1000  # characters of a reason

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


class CheckedRequest(TypedDict):
    """The checked options that `rlhf promote` and `rlhf rollback` share."""

    reason: str
    adopt: bool
    contest_override: str


def checked_request(reason: str, adopt: bool, contest_override: str = "") -> CheckedRequest:
    """Return the checked options, and keep MLflow quiet before it is imported. Raises BadInput."""
    require_short({"--reason": reason, "--override-contest": contest_override})
    if adopt and not reason:
        raise BadInput(
            "--adopt needs --reason: say what happened to the aliases, because the ledger keeps it."
        )
    quiet_libraries()
    return {
        "reason": " ".join(reason.split()),
        "adopt": adopt,
        "contest_override": " ".join(contest_override.split()),
    }


def require_short(texts: dict[str, str]) -> None:
    """Raise BadInput for an option whose text has more than LONGEST characters."""
    for option, text in texts.items():
        if len(text) > LONGEST:
            raise BadInput(f"{option} has {len(text)} characters; expected at most {LONGEST}.")


def print_result(result: "PromotionResult", as_json: bool) -> None:
    """Print what a promotion or rollback did."""
    if as_json:
        print_json(vars(result))
    else:
        print(result.reason)

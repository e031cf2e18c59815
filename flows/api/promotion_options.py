"""Checks of what a promotion or a rollback is asked with, before any library is loaded."""

from collections.abc import Mapping
from typing import TypedDict

from rlhf_core.errors import BadInput

LONGEST = 1000  # characters of a reason


class CheckedRequest(TypedDict):
    """The checked options that a promotion and a rollback share."""

    reason: str
    adopt: bool
    contest_override: str


class PromotionApproval(TypedDict):
    """The person who approved, and what they said; both empty without an approval."""

    approved_by: str
    approval_comment: str


def checked_request(reason: str, adopt: bool, contest_override: str = "") -> CheckedRequest:
    """Return the checked options. Raises BadInput for a long text, and to adopt without reason."""
    _require_short({"--reason": reason, "--override-contest": contest_override})
    if adopt and not reason:
        raise BadInput(
            "--adopt needs --reason: say what happened to the aliases, because the ledger keeps it."
        )
    return {
        "reason": " ".join(reason.split()),
        "adopt": adopt,
        "contest_override": " ".join(contest_override.split()),
    }


def approval_of(options: Mapping[str, object]) -> PromotionApproval:
    """Return who approved and what they said. Raises BadInput when only one of them is given."""
    names = {"--approved-by": "approved_by", "--comment": "comment"}
    given = {name: " ".join(str(options.get(key, "")).split()) for name, key in names.items()}
    _require_short(given)
    if missing := [option for option, text in given.items() if any(given.values()) and not text]:
        raise BadInput(
            f"{missing[0]} is missing: an approval is a name and a comment, because the ledger"
            " keeps both."
        )
    return {"approved_by": given["--approved-by"], "approval_comment": given["--comment"]}


def _require_short(texts: dict[str, str]) -> None:
    """Raise BadInput for an option whose text has more than LONGEST characters."""
    for option, text in texts.items():
        if len(text) > LONGEST:
            raise BadInput(f"{option} has {len(text)} characters; expected at most {LONGEST}.")

"""`rlhf promote`: make a version the champion, under the rules that the pipeline obeys."""

from typing import Annotated, TypedDict

import typer

from flows.cli.models.request import (
    Adopt,
    ModelName,
    Reason,
    checked_request,
    print_result,
    require_short,
)
from flows.cli.options import AsJson
from rlhf_core.errors import BadInput

Version = Annotated[
    int, typer.Argument(min=1, metavar="VERSION", help="Number of the version to make champion")
]
Expected = Annotated[
    int | None,
    typer.Option(
        "--expect-current", min=0, metavar="N", help="Refuse unless N is champion now; 0: none is"
    ),
]
ContestOverride = Annotated[
    str,
    typer.Option(
        "--override-contest",
        metavar="REASON",
        help="Promote a policy that has not beaten the champion; recorded",
    ),
]
Approver = Annotated[
    str,
    typer.Option(
        "--approved-by",
        metavar="NAME",
        help="Name of the approver, where the recipe requires approval and none is recorded",
    ),
]
ApprovalComment = Annotated[
    str,
    typer.Option(
        metavar="TEXT", help="The approver's comment; with --approved-by, kept in the ledger"
    ),
]


def promote(
    name: ModelName,
    version: Version,
    expect_current: Expected = None,
    reason: Reason = "",
    override_contest: ContestOverride = "",
    approved_by: Approver = "",
    comment: ApprovalComment = "",
    adopt: Adopt = False,
    as_json: AsJson = False,
) -> None:
    """Make a version the champion, and for a policy its reward model with it.

    All its gates must have passed, its bytes must be unchanged, and it must have beaten the
    present champion. A candidate (NAME-candidate) is copied to NAME first.
    """
    request = checked_request(reason, adopt, override_contest)
    approval = _approval(approved_by, comment)
    from tasks.promotion import aliases, candidates, promotion

    where, kind = aliases.open_registry(name)
    if kind == "reward":
        _refuse_policy_options(override_contest, approved_by)
    expects = None if expect_current is None else str(expect_current or "")
    if approved_by:
        _refuse_typed_name(where.client.tracking_uri)
    where, number = candidates.promoted_copy(where, kind, str(version))
    made = promotion.promote(
        where,
        promotion.PromotionRequest(
            kind=kind, version=number, expects=expects, **request, **approval
        ),
    )
    print_result(made, as_json)


def _refuse_policy_options(override_contest: str, approved_by: str) -> None:
    if override_contest:
        raise BadInput("--override-contest is for policies; a reward model fights no contest.")
    if approved_by:
        raise BadInput(
            "--approved-by is for policies; a reward model is promoted without approval."
        )


def _refuse_typed_name(uri: str) -> None:
    """Raise BadInput where MLflow's server has accounts, which say who approves."""
    from tasks.tracking.account import account_at

    if account_at(uri).is_authenticated:
        raise BadInput(
            "--approved-by is not taken: MLflow's server has accounts, and an approver's account"
            " approves by: rlhf approve RUN (an admin names approvers: rlhf access setup NAME"
            " --approver ACCOUNT)."
        )


class PromotionApproval(TypedDict):
    """The person who approved, and what they said; both empty without an approval."""

    approved_by: str
    approval_comment: str


def _approval(name: str, comment: str) -> PromotionApproval:
    """Return who approved and what they said. Raises BadInput when only one of them is given."""
    given = {"--approved-by": " ".join(name.split()), "--comment": " ".join(comment.split())}
    require_short(given)
    if missing := [option for option, text in given.items() if any(given.values()) and not text]:
        raise BadInput(
            f"{missing[0]} is missing: an approval is a name and a comment, because the ledger"
            " keeps both."
        )
    return {"approved_by": given["--approved-by"], "approval_comment": given["--comment"]}

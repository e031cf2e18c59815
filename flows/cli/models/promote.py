"""`rlhf promote`: make a version the champion, under the rules that the pipeline obeys."""

from typing import Annotated

import typer

from flows.api.registered_models import PromotionOptions, registry
from flows.cli.models.request import (
    Adopt,
    ModelName,
    Reason,
    Rehearse,
    print_rehearsal,
    print_result,
)
from flows.cli.options import AsJson

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
    dry_run: Rehearse = False,
    as_json: AsJson = False,
) -> None:
    """Make a version the champion, and for a policy its reward model with it.

    All its gates must have passed, its bytes must be unchanged, and it must have beaten the
    present champion. A candidate (NAME-candidate) is copied to NAME first.
    """
    options: PromotionOptions = {
        "expect_current": expect_current,
        "override_contest": override_contest,
        "approved_by": approved_by,
        "comment": comment,
        "adopt": adopt,
    }
    models = registry(name)
    if dry_run:
        found = models.rehearse_promotion(version, reason=reason, **options)
        print_rehearsal(found, as_json)
    else:
        print_result(models.promote(version, reason=reason, **options), as_json)

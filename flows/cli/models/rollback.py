"""`rlhf rollback`: make the previous champion the champion again."""

from flows.api.registered_models import registry
from flows.cli.models.request import (
    Adopt,
    ModelName,
    Reason,
    Rehearse,
    print_rehearsal,
    print_result,
)
from flows.cli.options import AsJson


def rollback(
    name: ModelName,
    reason: Reason = "",
    adopt: Adopt = False,
    dry_run: Rehearse = False,
    as_json: AsJson = False,
) -> None:
    """Make the previous champion the champion again, after the same checks.

    A second rollback returns to the champion before that one.
    """
    models = registry(name)
    if dry_run:
        print_rehearsal(models.rehearse_rollback(reason=reason, adopt=adopt), as_json)
    else:
        print_result(models.rollback(reason=reason, adopt=adopt), as_json)

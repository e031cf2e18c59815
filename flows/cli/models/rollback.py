"""`rlhf rollback`: make the previous champion the champion again."""

from flows.cli.models.request import Adopt, ModelName, Reason, checked_request, print_result
from flows.cli.options import AsJson


def rollback(
    name: ModelName, reason: Reason = "", adopt: Adopt = False, as_json: AsJson = False
) -> None:
    """Make the previous champion the champion again, after the same checks.

    A second rollback returns to the champion before that one.
    """
    request = checked_request(reason, adopt)
    from tasks.promotion import aliases, promotion

    where, kind = aliases.open_registry(name)
    made = promotion.rollback(where, promotion.PromotionRequest(kind=kind, **request))
    print_result(made, as_json)

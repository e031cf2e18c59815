"""The form of a --notify target: an address, or the name of a Prefect block."""

from urllib.parse import urlsplit

from rlhf_core.errors import BadInput


def is_address(target: str) -> bool:
    """Return True for an address, False for the name of a block."""
    return "://" in target


def require_form(target: str) -> None:
    """Raise BadInput for what is neither an http address nor of the form BLOCK-TYPE/NAME."""
    if is_address(target):
        address = urlsplit(target)
        good = address.scheme in ("http", "https") and bool(address.hostname)
    else:
        kind, _, name = target.partition("/")
        good = bool(kind and name)
    if not good:
        found = repr(target.partition("://")[0] + "://...") if is_address(target) else repr(target)
        raise BadInput(
            f"--notify {found} is neither an http or https address nor a Prefect block, e.g."
            " slack-webhook/team. Give one of these."
        )

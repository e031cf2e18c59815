"""Tell a Prefect server that lasts from the one that a run starts for itself."""

from prefect.settings import PREFECT_API_URL

_own: set[str] = set()


def note_own(url: str) -> None:
    """Remember the address of a server that ends with this process."""
    _own.add(url)


def lasting_server() -> str | None:
    """Return the address of the server that Prefect's settings name, None without one.

    A server that ends with this process is none: nobody sees its pages or keeps limits there.
    """
    url = PREFECT_API_URL.value()
    return None if not url or url in _own else str(url)

"""A token of Azure, asked for before its store is."""

from typing import Any

SCOPE = "https://storage.azure.com/.default"


def require_token(files: Any) -> None:
    """Ask Azure's credentials for a token, where the file system takes one.

    The store's client asks anew with each of its retries, 80 seconds in all; the credentials
    themselves answer within some. Raises what they raise, which `lacks_credentials` knows. Other
    stores' file systems, and an account key, need no token.
    """
    credential = getattr(files, "sync_credential", None)  # of adlfs
    if credential is not None:
        credential.get_token(SCOPE)

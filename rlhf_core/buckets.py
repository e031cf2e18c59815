"""Addresses of object stores, such as s3://bucket/folder, and the file systems behind them.

fsspec opens them. Its package for S3 is locked; the others are installed by whoever needs them.
Credentials come from where the store's own tools take them: the environment, the files in the home
folder, the machine's role. None is part of an address, and none is printed.
"""

import logging
import re
from typing import Any
from urllib.parse import urlsplit

from rlhf_core.errors import BadInput

# by scheme: the package that fsspec needs
PACKAGES = {"s3": "s3fs", "gs": "gcsfs", "az": "adlfs", "abfs": "adlfs"}
LOCAL = "file"  # a folder, such as a disk that several machines share
_AZURE = (
    "AZURE_STORAGE_CONNECTION_STRING, or AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY"
)
# by scheme: where the store's own client looks for credentials, for messages
CREDENTIALS = {
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or ~/.aws/credentials",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS, or `gcloud auth application-default login`",
    "az": _AZURE,
    "abfs": _AZURE,
}
# errors of clients without credentials, by name because their packages may not be installed
_WITHOUT_CREDENTIALS = (
    "NoCredentialsError",
    "PartialCredentialsError",
    "ClientAuthenticationError",
    "CredentialUnavailableError",
    "DefaultCredentialsError",
    "RefreshError",
)
# clients that log each look for credentials and each try again; what they raise says it once
_LOGGERS = ("gcsfs", "azure")
_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]+://", re.IGNORECASE)
# of botocore, seconds: a store that does not answer must not hold up training
_OPTIONS: dict[str, dict[str, Any]] = {
    "s3": {
        "config_kwargs": {
            "connect_timeout": 5,
            "read_timeout": 60,
            "retries": {"max_attempts": 2, "mode": "standard"},
        }
    },
    LOCAL: {"auto_mkdir": True},
}


def is_address(text: str) -> bool:
    """Return True for an address such as s3://bucket/key, False for a path and for a hub's name."""
    return bool(_ADDRESS.match(text))


def file_system(field: str, address: str) -> tuple[Any, str]:
    """Return fsspec's file system of an address, and the address's path in it.

    Raises BadInput naming the field for a scheme that is not known, a package that is missing, and
    credentials in the address.
    """
    parts = urlsplit(address)
    known = ", ".join(f"{name}://" for name in (*PACKAGES, LOCAL))
    if parts.scheme not in (*PACKAGES, LOCAL):
        raise BadInput(f"{field} begins with {parts.scheme}://; expected one of {known}.")
    if parts.scheme != LOCAL and ("@" in parts.netloc or ":" in parts.netloc):
        raise BadInput(
            f"{field} holds credentials or a port; expected {parts.scheme}://BUCKET/FOLDER alone."
            f" Give credentials by {CREDENTIALS[parts.scheme]}; of S3, another server than Amazon's"
            " by AWS_ENDPOINT_URL."
        )
    if parts.scheme != LOCAL and not parts.netloc:
        raise BadInput(f"{field} is {address!r}; expected {parts.scheme}://BUCKET/FOLDER.")
    import fsspec  # only here: most commands open no address

    for name in _LOGGERS:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        files = fsspec.filesystem(parts.scheme, **_OPTIONS.get(parts.scheme, {}))
    except ImportError as error:
        raise BadInput(
            f"{field} is {address!r}, and the package for {parts.scheme}:// is missing ({error})."
            f" Install it: pip install {PACKAGES.get(parts.scheme, 'fsspec')}"
        ) from error
    except ValueError as error:  # of a client that needs an account at once
        raise BadInput(
            f"{field} is {address!r}, and its store cannot be opened ({reason(error)}). Set"
            f" {CREDENTIALS.get(parts.scheme, 'its variables')}."
        ) from error
    return files, files._strip_protocol(address).rstrip("/")


def is_absent(error: BaseException) -> bool:
    """Return True where a store says that there is no such bucket or object."""
    return isinstance(error, FileNotFoundError) or _status(error) == 404


def is_refused(error: BaseException) -> bool:
    """Return True where a store says that the credentials are wrong, or have no right to it."""
    forbidden = type(error) is OSError and str(error).startswith("Forbidden")  # of gcsfs
    return isinstance(error, PermissionError) or _status(error) in (401, 403) or forbidden


def lacks_credentials(error: BaseException) -> bool:
    """Return True where the store's client has found no credentials."""
    return type(error).__name__ in _WITHOUT_CREDENTIALS


def _status(error: BaseException) -> int | None:
    """Return the status of HTTP that an error of a store's client has, None for another error."""
    names = ("status_code", "status", "code")  # of azure, aiohttp and gcsfs
    found = (getattr(error, name, "") for name in names)
    return next((int(one) for one in found if str(one).isdigit()), None)


def reason(error: BaseException) -> str:
    """Return the kind and the first line of a store's error."""
    first = next(iter(str(error).strip().splitlines()), "")
    return f"{type(error).__name__}: {first[:200]}"

"""Addresses of object stores, such as s3://bucket/folder, and the file systems behind them.

fsspec opens them. Its package for S3 is locked; the others are installed by whoever needs them.
Credentials come from where the store's own tools take them: the environment, the files in the home
folder, the machine's role. None is part of an address, and none is printed.
"""

import re
from typing import Any
from urllib.parse import urlsplit

from rlhf_core.errors import BadInput

# by scheme: the package that fsspec needs
PACKAGES = {"s3": "s3fs", "gs": "gcsfs", "az": "adlfs", "abfs": "adlfs"}
LOCAL = "file"  # a folder, such as a disk that several machines share
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
            " Give them by the store's own variables or files, such as AWS_ACCESS_KEY_ID,"
            " ~/.aws/credentials and AWS_ENDPOINT_URL."
        )
    if parts.scheme != LOCAL and not parts.netloc:
        raise BadInput(f"{field} is {address!r}; expected {parts.scheme}://BUCKET/FOLDER.")
    import fsspec  # only here: most commands open no address

    try:
        files = fsspec.filesystem(parts.scheme, **_OPTIONS.get(parts.scheme, {}))
    except ImportError as error:
        raise BadInput(
            f"{field} is {address!r}, and the package for {parts.scheme}:// is missing ({error})."
            f" Install it: pip install {PACKAGES.get(parts.scheme, 'fsspec')}"
        ) from error
    return files, files._strip_protocol(address).rstrip("/")


def reason(error: BaseException) -> str:
    """Return the kind and the first line of a store's error."""
    first = next(iter(str(error).strip().splitlines()), "")
    return f"{type(error).__name__}: {first[:200]}"

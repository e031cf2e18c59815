"""Passwords of new accounts: from the environment, else random in files of their owner."""

import os
import re
import secrets
from pathlib import Path

from rlhf_core.errors import BadInput

SHORTEST = 12  # characters, MLflow's least
VARIABLE = "RLHF_PASSWORD_ACCOUNT"  # with the account's name in its place
_BYTES = 18


def password_variable(account: str) -> str:
    """Return the environment variable with the password of a new account."""
    return VARIABLE.replace("ACCOUNT", re.sub("[^A-Z0-9]", "_", account.upper()))


def password_of(account: str, folder: Path) -> str:
    """Return the password of a new account; a random one is in the file of its name, mode 0600.

    Raises BadInput for one that is too short.
    """
    variable = password_variable(account)
    if given := os.environ.get(variable):
        if len(given) < SHORTEST:
            raise BadInput(f"{variable} has {len(given)} characters; expected at least {SHORTEST}.")
        return given
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    file = folder / account.replace("/", "_")
    if not file.exists():
        handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "w", encoding="utf-8") as out:
            out.write(secrets.token_urlsafe(_BYTES))
    return file.read_text(encoding="utf-8")

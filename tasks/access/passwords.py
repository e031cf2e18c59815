"""Passwords of new accounts: from the environment, else random in files of their owner."""

import contextlib
import os
import re
import secrets
import tempfile
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
        _write_once(file, secrets.token_urlsafe(_BYTES))
    found = file.read_text(encoding="utf-8").strip()
    if len(found) < SHORTEST:
        raise BadInput(
            f"{file} has a password of {len(found)} characters; expected at least {SHORTEST}. Write"
            " a longer one into the file, or remove the file if the account does not exist yet."
        )
    return found


def _write_once(file: Path, text: str) -> None:
    """Write a file of mode 0600 that is never half written; of several writers the first wins."""
    with tempfile.NamedTemporaryFile("w", dir=file.parent, encoding="utf-8") as new:
        new.write(text)
        new.flush()
        with contextlib.suppress(FileExistsError):
            os.link(new.name, file)

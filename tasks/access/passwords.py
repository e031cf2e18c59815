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


def given_password(account: str) -> str | None:
    """Return the password that the environment gives a new account, None without one.

    Raises BadInput for one that is too short.
    """
    variable = password_variable(account)
    given = os.environ.get(variable)
    if given and len(given) < SHORTEST:
        raise BadInput(f"{variable} has {len(given)} characters; expected at least {SHORTEST}.")
    return given or None


def password_of(account: str, folder: Path) -> str:
    """Return the password of a new account; a random one is in the file of its name, mode 0600.

    Raises BadInput for one that is too short, and for a folder that cannot be used.
    """
    if given := given_password(account):
        return given
    file = folder / account
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not file.exists():
            _write_once(file, secrets.token_urlsafe(_BYTES))
        found = file.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise BadInput(
            f"the password of {account} cannot be kept in {folder} ({error.strerror}); expected a"
            " folder in which you may write: --passwords FOLDER. Or set"
            f" {password_variable(account)}."
        ) from None
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

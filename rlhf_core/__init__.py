"""The learning, from validation to evaluation; it needs neither Prefect nor MLflow."""

import os
import sys
from pathlib import Path

__version__ = "0.2.0.dev0"  # the one place of the version; pyproject.toml reads it here
ROOT = Path(__file__).resolve().parents[1]  # of the checkout, or the folder of installed packages


def _search_current_folder_last() -> None:
    """Import libraries before files of the current folder, where a user's functions are.

    `python -m` puts the current folder first: a user's `datasets.py` would replace the library.
    """
    folder = os.getcwd()
    if not sys.flags.safe_path and sys.path[0] in ("", folder):
        del sys.path[0]
    sys.path.append(folder)


if sys.argv[:1] == ["-m"]:  # `python -m rlhf_core ...`, while Python looks for the module
    _search_current_folder_last()

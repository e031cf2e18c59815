"""Rows from a function of the user's: for files of a form that this project does not know."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from rlhf_core.data.sources.text_files import loads
from rlhf_core.errors import BadInput, RLHFError
from rlhf_core.named_functions import READERS, load_function


def rows_of_reader(name: str, reader: str, path: Path) -> Iterator[tuple[int, dict]]:
    """Yield (number, row) of each row that the function gives for a file, folder or pattern.

    name: of the source. Raises BadInput when the function fails, or gives what is no JSON object.
    """
    role = f"reader of {name}"
    function = load_function(reader, role, READERS)
    number = 0
    try:
        rows = function(path)
        if not isinstance(rows, Iterable):
            raise BadInput(
                f"the {role}, {reader!r}, gave a {type(rows).__name__} for {path}; expected rows,"
                " each a dict of column -> value."
            )
        for number, row in enumerate(rows, start=1):
            yield number, _as_object(f"the {role}, {reader!r}, gave row {number} of {path}", row)
    except RLHFError:
        raise
    except Exception as error:  # whatever the user's function raises
        raise BadInput(
            f"the {role}, {reader!r}, failed after row {number} of {path} with"
            f" {type(error).__name__}: {error}. Correct the function or the file."
        ) from error


def _as_object(subject: str, row: object) -> dict:
    """Return the row as a JSON file would give it: NaN is a missing value, a tuple a list."""
    if not isinstance(row, dict) or not all(isinstance(key, str) for key in row):
        raise BadInput(f"{subject} as {row!r:.80}; expected a dict of column -> value.")
    try:
        return loads(json.dumps(row))  # type: ignore[return-value]  # an object stays one
    except (TypeError, ValueError) as error:
        raise BadInput(
            f"{subject} with a value that JSON does not have ({error}); expected texts,"
            " numbers, true, false, None, lists and dicts."
        ) from None

"""The lines that a running stage has appended to a JSON Lines file since the last look."""

import json
from pathlib import Path


def new_lines(path: Path, offset: int) -> tuple[list[dict], int]:
    """Return the complete lines after byte `offset`, and the offset after them.

    A file that does not exist yet has no lines.
    """
    if not path.exists():
        return [], offset
    with path.open("rb") as file:
        file.seek(offset)
        data = file.read()
    end = data.rfind(b"\n") + 1
    return [json.loads(line) for line in data[:end].splitlines()], offset + end

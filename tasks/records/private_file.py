"""Files that their owner alone may read: they hold what users of a live model wrote."""

import json
import os
from collections.abc import Iterable
from pathlib import Path

from rlhf_core.rundir import replacing


def write_private(file: Path, rows: Iterable[dict]) -> None:
    """Write rows as JSON Lines by rename, with mode 0600 from the first byte on."""
    with replacing(file) as new:
        number = os.open(new, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        with os.fdopen(number, "w", encoding="utf-8", newline="\n") as out:
            out.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)

"""The file of people's thumbs that recipes train on, with its provenance beside it."""

import json
import os
import secrets
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rlhf_core.digest import digest_json
from rlhf_core.errors import BadInput
from tasks.live.replies import experiment_name, live_replies
from tasks.live.thumbs import ThumbRows, WantedThumbs, thumb_rows
from tasks.records.provenance import git_state
from tasks.records.run_record import now
from tasks.records.workspace import Workspace
from tasks.tracking.address import redacted
from tasks.tracking.client import connect

EVERY = 10_000_000  # kept replies that are read


def export_thumbs(name: str, out: Path, wanted: WantedThumbs, workspace: Workspace) -> ThumbRows:
    """Write the thumbs on a registry name's kept replies to a new file, and return its rows.

    Raises BadInput for a file that is there already, and where no reply has a label.
    """
    beside = provenance_file(out)
    _require_new(out, beside)
    found = thumb_rows(live_replies(connect(workspace.tracking_uri), name, most=EVERY), wanted)
    found.require_some(name, wanted)
    known = json.dumps(_provenance(name, found, wanted, workspace), indent=2)
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in found.rows)
    _write_new(beside, f"{known}\n")
    try:
        _write_new(out, lines)
    except BaseException:
        beside.unlink()
        raise
    return found


def provenance_file(out: Path) -> Path:
    """Return the file beside `out` that says where its rows come from."""
    return out.with_suffix(".provenance.json")


def _require_new(*files: Path) -> None:
    out = files[0]
    if out.suffix != ".jsonl":
        raise BadInput(f"--out is {out}; expected a name that ends in .jsonl.")
    if not out.parent.is_dir():
        raise BadInput(f"--out is {out}, and there is no folder {out.parent}; expected one.")
    for file in files:
        if file.exists():
            raise _taken(file)


def _taken(file: Path) -> BadInput:
    return BadInput(
        f"{file} is there already; expected a new file, because runs may have been trained on this"
        " one. Give another name with --out."
    )


def _write_new(file: Path, text: str) -> None:
    """Write a file that appears whole. Raises BadInput where one of its name has come meanwhile.

    Only the owner may read it, as the logged replies: it holds what users wrote.
    """
    with _new_beside(file) as new:
        number = os.open(new, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        with os.fdopen(number, "w", encoding="utf-8", newline="\n") as out:
            out.write(text)
            out.flush()
            os.fsync(number)
        try:
            os.link(new, file)  # fails where a file is, which a rename would replace
        except FileExistsError:
            raise _taken(file) from None


@contextmanager
def _new_beside(file: Path) -> Iterator[Path]:
    new = file.with_name(f".{file.name}.{secrets.token_hex(8)}.tmp")
    try:
        yield new
    finally:
        new.unlink(missing_ok=True)


def _provenance(
    name: str, found: ThumbRows, wanted: WantedThumbs, workspace: Workspace
) -> dict[str, Any]:
    """Return where the rows come from, and what was left out."""
    commit, dirty = git_state()
    up = sum(row["label"] for row in found.rows)
    return {
        "name": name,
        "tracking_uri": redacted(workspace.tracking_uri),
        "experiment": experiment_name(name),
        "feedback": wanted.name,
        "since": wanted.since.isoformat() if wanted.since else None,
        "until": wanted.until.isoformat() if wanted.until else None,
        "exported": now(),
        "commit": commit,
        "dirty": dirty,
        "rows": len(found.rows),
        "rows_digest": digest_json(found.rows),
        "up": up,
        "down": len(found.rows) - up,
        "replies": found.replies,
        "left_out": dict(found.left_out),
        "versions": dict(Counter(row["version"] for row in found.rows)),
    }

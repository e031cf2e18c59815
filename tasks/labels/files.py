"""The files of labelled data: comparisons to train on, and beside them what is known of them.

For OUT.jsonl the folder OUT.labels holds apart.jsonl (pairs without a preference), votes.jsonl,
report.json and provenance.json. OUT.jsonl is written last: where it is, the rest is whole.
"""

import json
import os
import secrets
from collections.abc import Iterable
from pathlib import Path

from rlhf_core.digest import digest_json
from rlhf_core.errors import BadInput, GateRefused
from rlhf_core.labels.outcome import LabelledData, lines
from rlhf_core.labels.pseudonyms import pseudonyms
from rlhf_core.rundir import write_atomically
from rlhf_core.statistics.agreement import Agreement
from tasks.records.provenance import git_state
from tasks.records.run_record import now
from tasks.records.workspace import Workspace

KEY_BYTES = 32
PROVENANCE = "provenance.json"  # in the folder OUT.labels


def names_in_data(workspace: Workspace, annotators: Iterable[str], *, real: bool) -> dict[str, str]:
    """Return what each annotator is called in the data: a pseudonym, or with `real` the name."""
    found = list(annotators)
    return {name: name for name in found} if real else pseudonyms(found, pseudonym_key(workspace))


def pseudonym_key(workspace: Workspace) -> bytes:
    """Return the workspace's key of pseudonyms; the first call makes it, readable by its owner."""
    file = workspace.labels / "key"
    if not file.exists():
        workspace.labels.mkdir(parents=True, exist_ok=True)
        new = file.with_name(f"key.{os.getpid()}")
        with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as out:
            out.write(secrets.token_bytes(KEY_BYTES))
        try:
            os.link(new, file)  # fails when another process was first
        except FileExistsError:
            pass
        finally:
            new.unlink()
    return file.read_bytes()


def require_out(out: Path) -> None:
    """Raise BadInput unless `out` is a new .jsonl file without a folder of labels beside it."""
    if out.suffix != ".jsonl":
        raise BadInput(f"--out is {out}; expected a name that ends in .jsonl.")
    if out.exists():
        raise BadInput(
            f"--out is {out}, which is there already; expected a new file, because runs may have"
            " been trained on this one. Give another name."
        )
    if (folder := out.with_suffix(".labels")).exists():
        raise BadInput(
            f"--out is {out}, and {folder} is there already; expected neither, because other"
            " labels' files would be overwritten. Give another name, or move the folder away."
        )


def require_alpha(campaign: str, alpha: Agreement | None, least: float | None) -> None:
    """Raise GateRefused where the lower end of alpha's interval is below `least`.

    Agreement that nobody measured does not pass. None: no such bound.
    """
    if least is None:
        return
    if alpha is None:
        raise GateRefused(
            f"{campaign}: no pair has two votes that prefer a reply, so that alpha is unknown;"
            f" expected at least {least:g}. Have pairs labelled twice (--overlap), or drop"
            " --min-alpha."
        )
    if alpha.low < least:
        raise GateRefused(
            f"{campaign}: the lower end of alpha's 95% interval is {alpha.low:.3f} (alpha"
            f" {alpha.alpha:.3f}, up to {alpha.high:.3f}, over {alpha.n} pairs); expected at least"
            f" {least:g}. Clarify the instructions and label again, collect more votes on the same"
            " pairs, or lower --min-alpha."
        )


def written_files(data: LabelledData, provenance: dict) -> dict[str, str]:
    """Return the text of each file of the labelled data, by its name; "" is OUT.jsonl itself."""
    commit, dirty = git_state()
    rows = lines(data.comparisons)
    known = provenance | {
        "closed": now(),
        "commit": commit,
        "dirty": dirty,
        "comparisons": len(data.comparisons),
        "comparisons_digest": digest_json(data.comparisons),
        "apart": len(data.apart),
        "votes": len(data.votes),
    }
    return {
        "apart.jsonl": lines(data.apart),
        "votes.jsonl": lines(data.votes),
        "report.json": json.dumps(data.report.renamed(data.names).as_json(), indent=2),
        PROVENANCE: json.dumps(known, indent=2),
        "": rows,
    }


def publish(files: dict[str, str], out: Path) -> None:
    """Write the files of `written_files`, OUT.jsonl last. To do it twice changes nothing."""
    folder = out.with_suffix(".labels")
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        if name:
            write_atomically(folder / name, text)
    write_atomically(out, files[""])

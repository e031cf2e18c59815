"""The files of a registered version: a standard MLflow model with its verdicts and its card.

MLmodel, <kind>_model.py, requirements.txt, rlhf_core_<digest>.zip, ...
                   the frame (frame.py): what MLflow loads the weights by
artifacts/model/   the Hugging Face folder, hard links into the run directory
gates.json         every gate decision about these bytes
approval.json      the approval that their recipe requires, with the request and the answer
README.md          the model card
"""

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from urllib.parse import unquote, urlparse

from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from pydantic import TypeAdapter, ValidationError

from rlhf_core.digest import digest_path
from rlhf_core.errors import BadInput
from rlhf_core.file_modes import usual_mode
from rlhf_core.gates.decide import Decision
from rlhf_core.modeling.pickles import pickle_files
from rlhf_core.rundir import write_atomically
from tasks.records.approval_record import VersionApproval
from tasks.records.file_lock import locked
from tasks.records.run_record import ModelKind, Registration
from tasks.registry.frame import name_weights, place_frame

WEIGHTS = Path("artifacts", "model")
GATES, CARD, APPROVAL = "gates.json", "README.md", "approval.json"
READ_MARK = "registered_model_meta"  # MLflow writes it when it reads


@dataclass(frozen=True)
class VersionRecords:
    """The records of a version: gate decisions, card (Markdown), and the template's date.

    template_date: the date that the model's chat template prints if it asks for the day.
    """

    decisions: list[Decision] = field(default_factory=list)
    card: str = ""
    template_date: str | None = None


def build(
    kind: ModelKind,
    model: Path,
    target: Path,
    records: VersionRecords,
    *,
    place: Callable | None = None,
    present: Path | None = None,
) -> None:
    """Make `target` a version of the Hugging Face folder `model`, complete when it appears.

    Weights that are there already stay. place(source, target) puts a weight file there: by default
    a hard link, or a copy where links are impossible. present: see place_frame. Raises BadInput
    when `model` holds pickle files.
    """
    _refuse_pickles(model)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{target.name}-", dir=target.parent) as temporary:
        folder = Path(temporary) / "new"
        place_frame(kind, folder, present, (GATES, CARD, APPROVAL))
        hidden = shutil.ignore_patterns(".*")  # not part of the digest either
        shutil.copytree(
            model, folder / WEIGHTS, copy_function=place or _link_or_copy, ignore=hidden
        )
        name_weights(folder, WEIGHTS, records.template_date)
        _write_evidence(folder, records)
        with locked(target.with_name(f".{target.name}.lock")):
            if (target / WEIGHTS).is_dir() and digest_path(target / WEIGHTS) == digest_path(model):
                _renew(folder, target)
                return
            if target.exists():
                target.rename(Path(temporary) / "old")
            folder.rename(target)


def store(
    wanted: Registration, location: str, *, registered: bool, present: Path | None = None
) -> None:
    """Store the files of a version at an artifact location.

    A local store gets hard links, a remote one an upload. registered: a version with these weights
    points there already; then the upload leaves out weights that are there. present: see
    place_frame.
    """
    build_at = partial(
        build,
        wanted.kind,
        wanted.artifact.verified().path,
        records=VersionRecords(wanted.decisions, wanted.card, wanted.template_date),
        present=present,
    )
    if (folder := local_folder(location)) is not None:
        build_at(folder)
        write_approval(folder, wanted.approval)
        return
    remote = get_artifact_repository(location)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "version"
        build_at(folder, place=os.symlink)  # no copy: the upload reads through the links
        write_approval(folder, wanted.approval)
        if registered and any(item.path == "MLmodel" for item in remote.list_artifacts()):
            shutil.rmtree(folder / WEIGHTS)
        remote.log_artifacts(str(folder))


def _write_evidence(root: Path, records: VersionRecords) -> None:
    """Write gates.json and README.md."""
    values = {"decisions": [decision.model_dump(mode="json") for decision in records.decisions]}
    write_atomically(root / GATES, json.dumps(values, indent=1, ensure_ascii=False) + "\n")
    write_atomically(root / CARD, records.card)


def write_approval(root: Path, approval: VersionApproval) -> None:
    """Write approval.json."""
    write_atomically(root / APPROVAL, approval.model_dump_json(indent=1) + "\n")


def read_approval(root: Path) -> VersionApproval | None:
    """Read the approval from a version's files, None for a version of an earlier release.

    Raises BadInput when it cannot be read.
    """
    file = root / APPROVAL
    if not file.exists():
        return None
    try:
        return VersionApproval.model_validate_json(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise BadInput(
            f"{file} does not say whether approval is required ({error}); register the model again."
        ) from None


def model_folder(root: Path) -> Path:
    """Return the Hugging Face folder of a version's files: `root` itself in the older layout."""
    return root / WEIGHTS if (root / WEIGHTS).is_dir() else root


def read_decisions(root: Path) -> list[Decision]:
    """Read the gate decisions from a version's files; there are none in the older layout.

    Raises BadInput when they cannot be read.
    """
    file = root / GATES
    if not file.exists():
        return []
    try:
        return TypeAdapter(list[Decision]).validate_python(
            json.loads(file.read_text(encoding="utf-8"))["decisions"]
        )
    except (ValueError, KeyError, TypeError, ValidationError) as error:
        raise BadInput(
            f"{file} does not hold gate decisions ({error}); register the model again."
        ) from None


def local_folder(location: str) -> Path | None:
    """Return the folder of a file URI or a plain path, None for a remote store."""
    parsed = urlparse(location)
    return Path(unquote(parsed.path)) if parsed.scheme in ("", "file") else None


def require_visible(place: Path, tracking_uri: str, what: str) -> None:
    """Raise BadInput for artifacts that only the machine of MLflow's server has.

    place: their folder, or one above it. what: the artifacts, as the message says it.
    """
    if tracking_uri.startswith("http") and not place.exists():
        raise BadInput(
            f"{what} is on the disk of MLflow's server ({place}), which this machine does not see;"
            " expected a server that hands out its artifacts, as infra/compose.yaml and infra/k8s"
            " set one up. Use such a server, or do this on the server's own machine."
        )


def _refuse_pickles(model: Path) -> None:
    if found := pickle_files(model):
        raise BadInput(
            f"{model} holds {found}, which may run code when they are loaded; expected safetensors"
            " only. Save the model with save_pretrained, or delete these files."
        )


def _renew(folder: Path, target: Path) -> None:
    """Move the files beside the weights to `target`; the code last that imports the others.

    Files of an earlier release, or of somebody else, are removed.
    """
    new = sorted((file for file in folder.iterdir() if file.is_file()), key=_is_script)
    for file in new:
        file.replace(target / file.name)
    known = {file.name for file in new} | {APPROVAL, READ_MARK}
    for file in [file for file in target.iterdir() if file.is_file() and file.name not in known]:
        file.unlink()


def _is_script(file: Path) -> bool:
    return file.suffix == ".py"


def _link_or_copy(source: str, target: str) -> None:
    """Link a file that whoever loads the version can read; copy any other with such a mode."""
    file = os.path.realpath(source)  # a hub's cache holds symbolic links
    if os.stat(file).st_mode & usual_mode() == usual_mode():
        with contextlib.suppress(OSError):  # another file system, or one without links
            os.link(file, target)
            return
    shutil.copy2(source, target)
    os.chmod(target, usual_mode())

"""The weights of registered versions on this machine: in place, or fetched once and kept."""

import os
import shutil
from pathlib import Path

from mlflow.entities.model_registry import ModelVersion

from rlhf_core.digest import digest_path
from rlhf_core.errors import BadInput
from rlhf_core.rundir import Artifact
from tasks.records.file_lock import locked
from tasks.records.workspace import Workspace
from tasks.registry import packaging
from tasks.registry.packaging import local_folder, require_visible
from tasks.registry.versions import location_of, opened_files


def fetch(workspace: Workspace, version: ModelVersion) -> Artifact:
    """Return a version's weights on this machine, in place where the store is local.

    Raises BadInput when the version has no digest, or the bytes differ from it.
    """
    digest = version.tags.get("digest")
    if not digest:
        raise BadInput(
            f"version {version.version} of {version.name} has no tag `digest`; expected a version"
            " that a run of this project has registered. Register the model with its recipe, or"
            f" move the alias to such a version: rlhf history {version.name.rpartition('-')[0]}."
        )
    folder = local_folder(location_of(version))
    if folder is None:
        folder = _downloaded(workspace, version, digest)
    what = f"version {version.version} of {version.name}"
    require_visible(folder, workspace.tracking_uri, what)
    if not _holds(folder, digest):
        raise BadInput(
            f"version {version.version} of {version.name} has other bytes than its tag says"
            f" ({folder}). Run its recipe again, which stores the same version anew; or, if it is"
            " the champion, go back with rlhf rollback."
        )
    return Artifact(path=packaging.model_folder(folder), digest=digest)


def _downloaded(workspace: Workspace, version: ModelVersion, digest: str) -> Path:
    """Return the folder with a remote version's files, which is fetched unless it is there.

    One process at a time looks and fetches, so that none removes what another has just completed.
    """
    folder = workspace.fetched / digest[:12]
    folder.parent.mkdir(parents=True, exist_ok=True)
    with locked(fetch_lock(folder)):
        if _holds(folder, digest):
            os.utime(folder)  # the time of its last use, for `rlhf gc`
            return folder
        with opened_files(workspace, version) as copy:
            shutil.rmtree(folder, ignore_errors=True)
            copy.rename(folder)
    return folder


def fetch_lock(folder: Path) -> Path:
    """Return the lock file of a fetched version's folder."""
    return folder.with_name(f".{folder.name}.lock")


def _holds(folder: Path, digest: str) -> bool:
    return folder.is_dir() and digest_path(packaging.model_folder(folder)) == digest

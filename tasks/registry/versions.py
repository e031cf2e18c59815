"""The model registry: one version for the same bytes, its files as they are served, its aliases."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import mlflow
from mlflow import MlflowClient
from mlflow.entities import LoggedModel
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

from rlhf_core.digest import digest_file, digest_json, digest_path
from rlhf_core.errors import BadInput
from tasks.records.run_record import Registration
from tasks.records.workspace import Workspace
from tasks.registry import packaging
from tasks.registry.packaging import local_folder, require_visible

CANDIDATE, CHAMPION, PREVIOUS = "candidate", "champion", "previous"
# tags of a version that the pipeline's account made for a promoter, and of the promoter's copy
CANDIDATE_OF, COPIED_FROM = "candidate_of", "copied_from"
ABSENT = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")  # MLflow's codes for "not there"
LARGEST_VERSION = 2**31 - 1  # the integer of MLflow's column
LONG_TIMEOUT_SECONDS = "600"
_TAG_ATTEMPTS = 5
_ABOUT = (
    "A version for each {kind} that has passed its gates, with its card. Aliases: `champion` (in"
    " use), `previous`, `candidate` (registered last). Move them with `rlhf promote {name} VERSION`"
    " and `rlhf rollback {name}`, which check and record it."
)
# files that may change
RENEWED = (packaging.GATES, packaging.CARD, packaging.READ_MARK)


class OtherFiles(BadInput):
    """A version's files are not those of its tags."""


@contextlib.contextmanager
def long_timeout() -> Iterator[None]:
    """Give MLflow's requests more time: models take longer than requests about a run.

    Those are given up within seconds.
    """
    name = "MLFLOW_HTTP_REQUEST_TIMEOUT"
    before = os.environ.get(name)
    os.environ[name] = LONG_TIMEOUT_SECONDS
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


# versions


def store_model(client: MlflowClient, model: LoggedModel, wanted: Registration) -> None:
    """Store a model's files, verdicts and card where its version points.

    A version that does not exist yet will point to the logged model's artifacts.
    """
    version = version_with_digest(client, wanted.model, wanted.artifact.digest)
    if version is None:
        packaging.store(wanted, model.artifact_location, registered=False)
        return
    location = location_of(version)
    with _files_beside_weights(location) as found:
        as_tagged = _frame_digests(found).get("frame_digest") == version.tags.get("frame_digest")
        packaging.store(wanted, location, registered=True, present=found if as_tagged else None)


def version_with_digest(client: MlflowClient, model: str, digest: str) -> ModelVersion | None:
    """Return the lowest version that holds these bytes, None without one."""
    found = client.search_model_versions(f"name = '{model}' and tags.digest = '{digest}'")
    return min(found, key=lambda version: int(version.version)) if found else None


def is_taken(client: MlflowClient, model: LoggedModel, name: str) -> bool:
    """Return True if a version of another registered model has its files with a logged model."""
    found = client.search_model_versions(f"source_path = '{model.artifact_location}'")
    return any(version.name != name for version in found)


def location_of(version: ModelVersion) -> str:
    """Return the address of a version's files."""
    assert version.source is not None  # given when a version is created
    return version.source


def ensure_model(client: MlflowClient, model: str, description: str) -> None:
    """Create a registered model unless it exists."""
    try:
        client.create_registered_model(model, description=description)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def register(
    client: MlflowClient, wanted: Registration, logged: LoggedModel, tags: dict[str, str]
) -> str:
    """Return the version for the bytes tagged 'digest', created when absent.

    It gets the tags anew, and the alias 'candidate'.
    """
    model = wanted.model
    about = _ABOUT.format(kind=wanted.kind, name=model.rpartition("-")[0])
    ensure_model(client, model, about)
    version = version_with_digest(client, model, tags["digest"]) or _created(
        client, wanted, logged, tags
    )
    _tag_as_stored(client, version, tags)
    if wanted.note:
        client.update_model_version(model, version.version, description=wanted.note)
    client.set_registered_model_alias(model, CANDIDATE, version.version)
    return str(version.version)


def _tag_as_stored(client: MlflowClient, version: ModelVersion, tags: dict[str, str]) -> None:
    """Tag a version, with the digests of its files as the store has them at the end.

    A twin of this run may renew the files of the same version meanwhile. Whoever comes last sees
    its tags and the files agree.
    """
    for _ in range(_TAG_ATTEMPTS):
        found = _digests_beside_weights(location_of(version))
        for key, value in (tags | found).items():
            client.set_model_version_tag(version.name, version.version, key, value)
        if _digests_beside_weights(location_of(version)) == found:
            return


def _created(
    client: MlflowClient, wanted: Registration, logged: LoggedModel, tags: dict[str, str]
) -> ModelVersion:
    """Create a version and return the one that stays.

    Another pipeline may have created one of the same bytes a moment before: the lower number stays.
    """
    version = client.create_model_version(
        wanted.model,
        source=logged.artifact_location,
        run_id=logged.source_run_id or None,
        model_id=logged.model_id,
        tags=tags,
    )
    first = version_with_digest(client, wanted.model, tags["digest"]) or version
    if int(first.version) < int(version.version):
        client.delete_model_version(wanted.model, version.version)
    return first


def _digests_beside_weights(location: str) -> dict[str, str]:
    """Return the digests of the files beside the weights, read back from the store."""
    with _files_beside_weights(location) as folder:
        return _frame_digests(folder)


@contextlib.contextmanager
def _files_beside_weights(location: str) -> Iterator[Path]:
    """Yield a folder with a copy of the files beside the weights, as they are in the store now."""
    with tempfile.TemporaryDirectory() as temporary:
        folder, local = Path(temporary), local_folder(location)
        if local is None:
            remote = get_artifact_repository(location)
            for item in remote.list_artifacts():
                if not item.is_dir:
                    remote.download_artifacts(item.path, temporary)
        else:
            for name in _names(local):
                with contextlib.suppress(FileNotFoundError):  # a twin of the run has renewed them
                    shutil.copyfile(local / name, folder / name)
        yield folder


def _frame_digests(folder: Path) -> dict[str, str]:
    """Return the digests of a version's files beside the weights, by tag.

    gates_digest: the gate records; frame_digest: MLmodel, code, requirements and approval;
    loaded_digest: of these what MLflow loads, all but the approval.
    """
    names = _names(folder)
    frame = [[name, digest_file(folder / name)] for name in names if name not in RENEWED]
    found = {}
    if packaging.GATES in names:
        found["gates_digest"] = digest_path(folder / packaging.GATES)
    if "MLmodel" in names:
        found["frame_digest"] = digest_json(frame)
        loaded = [row for row in frame if row[0] != packaging.APPROVAL]
        found["loaded_digest"] = digest_json(loaded)
    return found


def _names(folder: Path) -> list[str]:
    """Return the names of the files in a folder itself; of none where it does not exist."""
    found = folder.iterdir() if folder.is_dir() else ()
    return sorted(file.name for file in found if file.is_file() and file.name[0] != ".")


# files


@contextlib.contextmanager
def served_files(
    workspace: Workspace, version: ModelVersion, uri: str | None = None
) -> Iterator[Path]:
    """Yield the folder of a version's files as the registry serves them now.

    A local store gives its own folder, a remote one a fresh copy that is removed at the end.
    uri: the address to load from; by default it names the version's number. Raises OtherFiles when
    weights, gate records, code or approval have other digests than the version's tags.
    """
    with opened_files(workspace, version, uri) as folder:
        require_digests(folder, version)
        yield folder


@contextlib.contextmanager
def opened_files(
    workspace: Workspace, version: ModelVersion, uri: str | None = None
) -> Iterator[Path]:
    """Yield the folder of a version's files, unchecked; a remote store gives a fresh copy."""
    folder = local_folder(location_of(version))
    if folder is not None:
        named = f"version {version.version} of {version.name}"
        require_visible(folder, workspace.tracking_uri, named)
        yield folder
        return
    workspace.fetched.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".", dir=workspace.fetched) as temporary:
        target = Path(temporary) / "files"
        target.mkdir()
        with long_timeout():
            mlflow.artifacts.download_artifacts(
                uri or f"models:/{version.name}/{version.version}", dst_path=str(target)
            )
        yield target


def require_digests(folder: Path, version: ModelVersion) -> None:
    """Raise OtherFiles unless the files in `folder` have the digests of the version's tags.

    These are the digests of the weights, of the gate records, and of code and approval. Raises
    BadInput when there are no files.
    """
    if not folder.is_dir():
        raise BadInput(
            f"version {version.version} of {version.name} has no files: {folder} does not exist."
        )
    found = {"digest": digest_path(packaging.model_folder(folder))} | _frame_digests(folder)
    for tag, what in {
        "digest": "weights",
        "gates_digest": "gate records",
        "frame_digest": "code, MLmodel or approval",
    }.items():
        expected = version.tags.get(tag)
        if found.get(tag) != expected:
            raise OtherFiles(
                f"version {version.version} of {version.name} has other {what} than when it was"
                f" registered ({folder}): digest {(found.get(tag) or 'none')[:12]}, its tag says"
                f" {(expected or 'none')[:12]}. Do not use it; run its recipe again, which stores"
                " the same version anew, or delete it."
            )


# aliases


def aliases(client: MlflowClient, model: str) -> dict[str, str]:
    """Map each alias of a registered model to its version; empty without such a model."""
    try:
        return {
            alias: str(version)
            for alias, version in client.get_registered_model(model).aliases.items()
        }
    except MlflowException as error:
        if error.error_code in ABSENT:
            return {}
        raise


def find_version(client: MlflowClient, model: str, version: str) -> ModelVersion | None:
    """Return a version, None when there is none or it was deleted."""
    # a database raises for a number that its column cannot hold
    if version.isdigit() and int(version) > LARGEST_VERSION:
        return None
    try:
        return client.get_model_version(model, version)
    except MlflowException as error:
        if error.error_code in ABSENT:
            return None
        raise

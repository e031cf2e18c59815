"""The model registry: one version for the same bytes, and an alias that moves only for a proven candidate."""

import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlparse

import mlflow
from mlflow import MlflowClient
from mlflow.entities import LoggedModel
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from rlhf_core.digest import digest_path
from rlhf_core.errors import BadInput
from rlhf_core.rundir import Artifact
from tasks.record import Registration
from tasks.workspace import Workspace

CANDIDATE, CHAMPION = "candidate", "champion"


@dataclass(frozen=True)
class PromotionResult:
    """What became of a candidate. promoted: it is the champion now; reason: one sentence."""

    model: str
    version: str
    promoted: bool
    reason: str
    replaced: str | None = None  # version that was champion before


@dataclass(frozen=True)
class Contest:
    """What the promotion rests on. champion: digest of the model the policy was compared with; None: no comparison."""

    passed: bool
    win_rate: float | None
    champion: str | None
    required: float


def store_model(client: MlflowClient, model: LoggedModel, wanted: Registration) -> None:
    """Put a model's files where the logged model's artifacts belong: hard links on a local store, else one upload."""
    artifact = wanted.artifact.verified()
    folder = local_folder(model.artifact_location)
    if folder is None:
        if version_of(client, wanted.model, artifact.digest) is None:
            client.log_model_artifacts(model.model_id, str(artifact.path))
    elif not folder.exists() or digest_path(folder) != artifact.digest:
        _link_tree(artifact.path, folder)


def local_folder(location: str) -> Path | None:
    """The folder of a file URI or a plain path; None for a remote store."""
    parsed = urlparse(location)
    return Path(unquote(parsed.path)) if parsed.scheme in ("", "file") else None


def _link_tree(source: Path, target: Path) -> None:
    shutil.rmtree(target, ignore_errors=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copytree(source, target, copy_function=_link_or_copy, ignore=shutil.ignore_patterns(".*"))


def _link_or_copy(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without links
        shutil.copy2(source, target)


def version_of(client: MlflowClient, model: str, digest: str) -> ModelVersion | None:
    """The version that holds these bytes."""
    found = client.search_model_versions(f"name = '{model}' and tags.digest = '{digest}'")
    return min(found, key=lambda version: int(version.version)) if found else None


def register(client: MlflowClient, wanted: Registration, logged: LoggedModel, tags: dict[str, str]) -> str:
    """The version for the bytes tagged 'digest', made when absent, tagged anew, alias 'candidate' on it."""
    model = wanted.model
    try:
        client.create_registered_model(model)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    version = version_of(client, model, tags["digest"])
    if version is None:
        version = client.create_model_version(
            model, source=logged.artifact_location, run_id=logged.source_run_id, model_id=logged.model_id, tags=tags,
        )  # fmt: skip
    else:
        for key, value in tags.items():
            client.set_model_version_tag(model, version.version, key, value)
    if wanted.note:
        client.update_model_version(model, version.version, description=wanted.note)
    client.set_registered_model_alias(model, CANDIDATE, version.version)
    return str(version.version)


def champion(client: MlflowClient, model: str) -> ModelVersion | None:
    """The version under the alias 'champion', if any."""
    try:
        return client.get_model_version_by_alias(model, CHAMPION)
    except MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            return None
        raise


def rival(client: MlflowClient, workspace: Workspace, model: str, policy_digest: str) -> Artifact | None:
    """The model that a policy must beat: the champion; for the champion itself the one it once beat; None if none.

    The second case keeps a finished pipeline's evaluation the same when it is run again after its own promotion.
    """
    version = champion(client, model)
    if version and version.tags.get("digest") == policy_digest:
        beaten = version.tags.get("compared_with")
        version = version_of(client, model, beaten) if beaten else None
    return fetch(workspace, version) if version else None


def fetch(workspace: Workspace, version: ModelVersion) -> Artifact:
    """A version's files on this machine, in place where the store is local. Raises BadInput when the bytes differ."""
    digest = version.tags.get("digest", "")
    folder = local_folder(version.source)
    if folder is None:
        folder = workspace.home / "versions" / digest[:12]
        if not folder.exists():
            folder.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
                found = mlflow.artifacts.download_artifacts(f"models:/{version.name}/{version.version}", dst_path=temporary)
                shutil.copytree(found, folder, ignore=shutil.ignore_patterns("registered_model_meta"))
    if digest_path(folder) != digest:
        raise BadInput(
            f"version {version.version} of {version.name} has other bytes than its tag says ({folder}). "
            "Delete that version, or take the alias off it."
        )
    return Artifact(path=folder, digest=digest)


def promote(client: MlflowClient, workspace: Workspace, model: str, version: str, contest: Contest) -> PromotionResult:
    """Move 'champion' to `version` when the contest allows it, after reading the registered bytes again."""
    candidate = client.get_model_version(model, version)
    present = champion(client, model)
    if present and str(present.version) == version:
        return PromotionResult(model, version, True, f"Version {version} of {model} is the champion already.")
    if refusal := _refusal(contest, candidate, present):
        return PromotionResult(model, version, False, refusal)
    fetch(workspace, candidate)
    replaced = str(present.version) if present else None
    if present:
        client.set_model_version_tag(model, version, "compared_with", contest.champion)
        client.set_model_version_tag(model, version, "replaced", replaced)
    client.set_registered_model_alias(model, CHAMPION, version)
    how = f"it wins {contest.win_rate:.1%} against version {replaced}" if present else "there was no champion before"
    return PromotionResult(model, version, True, f"Version {version} of {model} is the champion: {how}.", replaced)


def _refusal(contest: Contest, candidate: ModelVersion, present: ModelVersion | None) -> str | None:
    name = f"Version {candidate.version} of {candidate.name} is not promoted"
    if not contest.passed:
        return f"{name}: not every gate passed."
    if present is None:
        return None
    if contest.champion != present.tags.get("digest") or contest.win_rate is None:
        return f"{name}: it was not compared with the present champion, version {present.version}; run the recipe again."
    if not contest.win_rate > contest.required:
        return (
            f"{name}: it wins {contest.win_rate:.1%} of the held-out prompts against the champion, version "
            f"{present.version}, required more than {contest.required:.1%}."
        )
    return None

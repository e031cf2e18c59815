"""Candidates: versions that the pipeline's account registers and another account promotes.

They are versions of '<name>-candidate-policy' and '<name>-candidate-reward'. The promoter's copy in
'<name>-policy' has the same weights, records and lineage, in files that the pipeline's account
cannot write. MLflow's own copy would point to the pipeline's files, which its next run renews. The
code in the copy is that of the promoter's installation, because a promotion loads and runs it.
"""

from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import LoggedModel, LoggedModelStatus
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.models import Model

from rlhf_core.config.registry import CANDIDATES
from rlhf_core.errors import BadInput, PromotionRefused
from rlhf_core.rundir import Artifact
from tasks.execution.stage_calls import require_stages
from tasks.promotion.aliases import RegistryAliases
from tasks.promotion.ledger import Ledger, LedgerEntry
from tasks.promotion.rights import refusal
from tasks.records.run_record import ModelKind, Registration
from tasks.registry import packaging, smoke_test, versions
from tasks.registry.versions import CANDIDATE_OF, COPIED_FROM
from tasks.tracking.account import account_at
from tasks.tracking.client import find_or_create_experiment

# tags that a registration makes from the files of its own version, and those of a candidate alone
_OWN = (
    *("gates_digest", "frame_digest", "loaded_digest", "reward_version", CANDIDATE_OF),
    smoke_test.TAG,
)


def candidates_of(registry: RegistryAliases) -> RegistryAliases:
    """Return the candidates of a registry name."""
    return RegistryAliases(registry.client, registry.workspace, f"{registry.name}{CANDIDATES}")


def contest_entries(client: MlflowClient, name: str) -> list[LedgerEntry]:
    """Return the entries of a name and of its candidates, in order of time.

    A contest that a candidate loses is recorded among those of the candidates, and is a look at the
    held-out prompts like any other.
    """
    base = name.removesuffix(CANDIDATES)
    entries = [*Ledger(client, base).entries(), *Ledger(client, f"{base}{CANDIDATES}").entries()]
    return sorted(entries, key=lambda entry: entry.time)


def promoted_copy(
    registry: RegistryAliases, kind: ModelKind, number: str
) -> tuple[RegistryAliases, str]:
    """Return the registry name and the version to promote: of a candidate its copy, made if absent.

    Any other version is returned as it is. A policy brings its reward model. Raises BadInput for a
    version that does not exist, or where torch is not installed, whose version a copy requires;
    PromotionRefused for other bytes than the candidate's tags say, or where MLflow's server does
    not let this account copy.
    """
    version = registry.require_version(kind, number)
    name = version.tags.get(CANDIDATE_OF)
    if not name:
        return registry, number
    require_stages("the copy of a candidate")
    target = RegistryAliases(registry.client, registry.workspace, name)
    try:
        return target, _copied(registry, target, kind, version)
    except MlflowException as error:
        if error.error_code != "PERMISSION_DENIED":
            raise
        account = account_at(registry.client.tracking_uri)
        raise refusal(name, target.model(kind), account.name) from error


def _copied(
    candidates: RegistryAliases, target: RegistryAliases, kind: ModelKind, version: ModelVersion
) -> str:
    """Return the number of the copy of a candidate. The same bytes are one version, renewed."""
    tags = {key: value for key, value in version.tags.items() if key not in _OWN}
    tags[COPIED_FROM] = f"models:/{version.name}/{version.version}"
    if reward := version.tags.get("reward_version"):
        found = candidates.version("reward", reward)
        tags["reward_version"] = _copied(candidates, target, "reward", found)
    try:
        with versions.served_files(candidates.workspace, version) as folder:
            wanted = _registration(version, folder, target.model(kind), kind)
            logged = _logged_model(target, kind, version)
            with versions.long_timeout():
                versions.store_model(target.client, logged, wanted)
            return versions.register(target.client, wanted, logged, tags)
    except BadInput as error:
        raise PromotionRefused(f"nothing was promoted: {error}") from error


def _registration(version: ModelVersion, folder: Path, model: str, kind: ModelKind) -> Registration:
    """Return the registration of a candidate's weights and records under another name."""
    approval = packaging.read_approval(folder)
    if approval is None:
        raise BadInput(
            f"the files of version {version.version} of {version.name} do not say whether its"
            " recipe requires a person's approval; run its recipe again, which adds that."
        )
    date = (Model.load(str(folder)).metadata or {}).get("template_date")
    weights = Artifact(path=packaging.model_folder(folder), digest=version.tags["digest"])
    return Registration(
        model=model,
        stage=kind,
        artifact=weights,
        tags={},
        decisions=packaging.read_decisions(folder),
        note=version.description or "",
        card=(folder / packaging.CARD).read_text(encoding="utf-8"),
        template_date=date,
        approval=approval,
    )


def _logged_model(target: RegistryAliases, kind: ModelKind, version: ModelVersion) -> LoggedModel:
    """Return the promoter's logged model of a candidate's bytes, created when absent."""
    client, digest = target.client, version.tags["digest"]
    experiment = find_or_create_experiment(client, target.workspace, f"{target.name}-promoted")
    found = client.search_logged_models([experiment], f"tags.digest = '{digest}'")
    if found:
        return found[0]
    logged = client.create_logged_model(
        experiment,
        name=kind,
        source_run_id=version.run_id or None,
        tags={"digest": digest, COPIED_FROM: f"models:/{version.name}/{version.version}"},
        model_type=kind,
    )
    return client.finalize_logged_model(logged.model_id, LoggedModelStatus.READY)

"""One registry name and where its aliases stand: read, compared with the ledger, checked against
bytes and records, moved.
"""

import re
from dataclasses import dataclass

from rlhf_core.config import ALIGNMENTS
from rlhf_core.errors import BadInput, PromotionRefused, RLHFError
from rlhf_core.gates.decide import Decision
from tasks.promotion.eligibility import require_evidence
from tasks.promotion.ledger import (
    KINDS,
    AliasPlan,
    AliasState,
    AliasVersions,
    Champion,
    Ledger,
    LedgerEntry,
)
from tasks.records.approval_record import SignOff
from tasks.records.run_record import ModelKind
from tasks.records.workspace import Workspace
from tasks.registry import packaging, versions
from tasks.registry.versions import CHAMPION, PREVIOUS
from tasks.tracking.client import brief, client_for

NAME = re.compile(r"[a-z0-9][a-z0-9-]*")  # as in a recipe's registry.name


@dataclass(frozen=True)
class RegistryAliases:
    """Where the promotions of one registry name are made."""

    client: versions.MlflowClient
    workspace: Workspace
    name: str

    @property
    def ledger(self) -> Ledger:
        return Ledger(self.client, self.name)

    def model(self, kind: ModelKind) -> str:
        """A registered model's name."""
        return f"{self.name}-{kind}"

    def aliases(self) -> AliasVersions:
        """Where 'champion' and 'previous' of both models point now."""
        found = {kind: versions.aliases(self.client, self.model(kind)) for kind in KINDS}
        return {
            f"{kind}@{alias}": found[kind].get(alias)
            for kind in KINDS
            for alias in (CHAMPION, PREVIOUS)
        }

    def version(self, kind: ModelKind, number: str) -> versions.ModelVersion:
        """A version. Raises PromotionRefused when there is none, or none any more."""
        found = versions.find_version(self.client, self.model(kind), number)
        if found is None:
            raise PromotionRefused(
                f"version {number} of {self.model(kind)} does not exist; it was never made, or"
                " deleted."
            )
        return found

    def verified_version(self, kind: ModelKind, champion: Champion) -> versions.ModelVersion:
        """A version that the ledger names. Raises PromotionRefused when it says other bytes of
        itself by now.
        """
        found = self.version(kind, champion.version)
        if found.tags.get("digest") != champion.digest:
            raise PromotionRefused(
                f"the tag 'digest' of version {champion.version} of {self.model(kind)} was changed;"
                f" the ledger says {champion.digest[:12]}. Do not use that version."
            )
        return found

    def as_champion(self, kind: ModelKind, number: str) -> Champion:
        """A version as the ledger names it."""
        return Champion(version=number, digest=self.version(kind, number).tags.get("digest", ""))


def open_registry(name: str, *, must_exist: bool = True) -> tuple[RegistryAliases, ModelKind]:
    """The registry for 'quickstart', 'quickstart-policy' or 'quickstart-reward', and the model meant.

    must_exist: there must be such a model. Raises BadInput, or within seconds RLHFError when MLflow does
    not answer.
    """
    if not NAME.fullmatch(name):
        raise BadInput(
            f"{name!r} is no registry name; expected small letters, digits and hyphens, e.g."
            " quickstart."
        )
    workspace = Workspace.here()
    try:
        client = client_for(workspace.tracking_uri)
        models = {model.name for model in client.search_registered_models(max_results=1000)}
    except Exception as error:
        raise RLHFError(
            f"MLflow at {workspace.tracking_uri} does not answer ({brief(error)}). Nothing was"
            " changed. Start it, or set MLFLOW_TRACKING_URI to where it runs."
        ) from error
    stem, _, ending = name.rpartition("-")
    is_model = ending in KINDS and f"{name}-policy" not in models and f"{name}-reward" not in models
    name, kind = (stem, ending) if is_model else (name, "policy")
    if must_exist and f"{name}-{kind}" not in models:
        there = sorted(model for model in models if model.endswith(("-policy", "-reward")))
        raise BadInput(
            f"there is no registered model {name}-{kind}; found {', '.join(there) or 'none'}."
        )
    return RegistryAliases(client, workspace, name), kind


def drift(state: AliasState, found: AliasVersions) -> str | None:
    """How the aliases differ from what the ledger says; None when they do not."""
    wrong = [
        f"{kind}@{CHAMPION} is {version_text(found[f'{kind}@{CHAMPION}'])}, the ledger says"
        f" {version_text(state.version(kind))}"
        for kind in KINDS
        if found[f"{kind}@{CHAMPION}"] != state.version(kind)
    ]
    return "; ".join(wrong) or None


def version_text(version: str | None) -> str:
    """A version in a sentence."""
    return f"version {version}" if version else "none"


@dataclass(frozen=True)
class VersionEvidence:
    """What a version's files say: its gate records, and where a person's approval stands (None:
    they do not say).
    """

    decisions: list[Decision]
    sign_off: SignOff | None


def check_version(registry: RegistryAliases, state: AliasState, kind: ModelKind) -> VersionEvidence:
    """Bytes and gate records of the state's champion of this kind, as they are served now. Raises
    PromotionRefused.
    """
    champion = state.policy if kind == "policy" else state.reward
    version = registry.verified_version(kind, champion)
    about = {
        "policy": dict.fromkeys((*ALIGNMENTS, "evaluate"), champion.digest),
        "reward": {"reward": champion.digest},
    }[kind]
    if kind == "policy" and state.reward:
        about["reward"] = state.reward.digest
    try:
        with versions.served_files(registry.workspace, version) as folder:
            found = VersionEvidence(
                packaging.read_decisions(folder), packaging.read_sign_off(folder)
            )
        require_evidence(kind, about, version.tags, found.decisions)
    except RLHFError as error:
        raise PromotionRefused(
            f"version {champion.version} of {registry.model(kind)} may not be champion: {error}"
        ) from error
    return found


def smoke_test_alias(registry: RegistryAliases, entry: LedgerEntry, plan: AliasPlan) -> None:
    """Load what the alias 'champion' serves now and run it: the entry's model, and the other one if
    it moves with it.

    Raises PromotionRefused when that fails.
    """
    from rlhf_core.modeling.smoke import (
        smoke,
    )  # torch, which a pipeline without a promotion never needs in this process

    for kind in KINDS:
        champion = plan.state.policy if kind == "policy" else plan.state.reward
        if champion is None or (
            kind != entry.kind and plan.before[f"{kind}@{CHAMPION}"] == champion.version
        ):
            continue
        uri = f"models:/{registry.model(kind)}@{CHAMPION}"
        version = registry.client.get_model_version_by_alias(registry.model(kind), CHAMPION)
        if (str(version.version), version.tags.get("digest")) != (
            champion.version,
            champion.digest,
        ):
            raise PromotionRefused(
                f"{uri} serves version {version.version}, expected version {champion.version}."
            )
        try:
            with versions.served_files(registry.workspace, version, uri) as folder:
                smoke(kind, packaging.model_folder(folder))
                versions.predict_once(kind, folder)
        except BadInput as error:
            raise PromotionRefused(f"{uri} does not load and run: {error}") from error


def move_alias(registry: RegistryAliases, entry: LedgerEntry, plan: AliasPlan, alias: str) -> None:
    """Set `alias` of both models as planned.

    Raises PromotionRefused when 'champion' is neither where it was nor where it goes, or goes to a
    version that is gone.
    """
    now = registry.aliases()
    keys = [f"{kind}@{alias}" for kind in KINDS]
    if strange := [
        key
        for key in keys
        if alias == CHAMPION and now[key] not in (plan.before[key], plan.after[key])
    ]:
        found = ", ".join(f"{key} is {version_text(now[key])}" for key in strange)
        raise PromotionRefused(f"somebody moves aliases by hand while {entry} is at work: {found}.")
    registry.ledger.require_open(entry)
    lost = _set_aliases(
        registry, {key: plan.after[key] for key in keys if now[key] != plan.after[key]}
    )
    if lost and alias == CHAMPION:
        raise PromotionRefused(lost.strip())


def restore_aliases(registry: RegistryAliases, entry: LedgerEntry, plan: AliasPlan) -> str:
    """Set every alias as it was before; what it says tells which ones are not so again, and why."""
    now = registry.aliases()
    strange = [key for key in plan.before if now[key] not in (plan.before[key], plan.after[key])]
    registry.ledger.require_open(entry)
    lost = _set_aliases(
        registry,
        {key: old for key, old in plan.before.items() if now[key] != old and key not in strange},
    )
    return lost + "".join(
        f" {key} was moved by somebody else and is left at {version_text(now[key])}."
        for key in strange
    )


def _set_aliases(registry: RegistryAliases, wanted: AliasVersions) -> str:
    """Move aliases; take off those whose version is gone, which is what it says."""
    lost = ""
    for key, version in wanted.items():
        kind, _, alias = key.partition("@")
        if version and versions.find_version(registry.client, registry.model(kind), version):
            registry.client.set_registered_model_alias(registry.model(kind), alias, version)
            continue
        registry.client.delete_registered_model_alias(registry.model(kind), alias)
        lost += f" {key} is none now, for version {version} was deleted." if version else ""
    return lost

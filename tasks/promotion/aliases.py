"""The aliases of one registry name: where they are, where the ledger has them, how they move."""

import itertools
import re
from dataclasses import dataclass

from rlhf_core.config.registry import CANDIDATES
from rlhf_core.errors import BadInput, PromotionRefused
from tasks.execution.stage_calls import stages_torch
from tasks.promotion.champions import KINDS, AliasPlan, AliasState, AliasVersions, Champion
from tasks.promotion.ledger import Action, Ledger, LedgerEntry
from tasks.records.run_record import ModelKind
from tasks.records.workspace import Workspace
from tasks.registry import versions
from tasks.registry.smoke_test import require_testable, smoke_test
from tasks.registry.versions import CHAMPION, PREVIOUS
from tasks.tracking.account import unanswered
from tasks.tracking.address import require_address
from tasks.tracking.client import connect
from tasks.tracking.pages import model_versions, registered_models

LISTED = 20  # versions, the latest, in a message
NAME = re.compile(r"[a-z0-9][a-z0-9-]*")  # as in a recipe's registry.name


@dataclass(frozen=True)
class RegistryAliases:
    """The two registered models of one registry name, their aliases and their ledger."""

    client: versions.MlflowClient
    workspace: Workspace
    name: str

    @property
    def ledger(self) -> Ledger:
        """The ledger of this name."""
        return Ledger(self.client, self.name)

    def model(self, kind: ModelKind) -> str:
        """Return a registered model's name."""
        return f"{self.name}-{kind}"

    def aliases(self) -> AliasVersions:
        """Return the versions of 'champion' and 'previous' of both models as they are now."""
        found = {kind: versions.aliases(self.client, self.model(kind)) for kind in KINDS}
        return {
            f"{kind}@{alias}": found[kind].get(alias)
            for kind in KINDS
            for alias in (CHAMPION, PREVIOUS)
        }

    def version(self, kind: ModelKind, number: str) -> versions.ModelVersion:
        """Return a version. Raises PromotionRefused when it does not exist, or not any more."""
        found = versions.find_version(self.client, self.model(kind), number)
        if found is None:
            raise PromotionRefused(
                f"version {number} of {self.model(kind)} does not exist; it was never made, or"
                f" deleted.{self._candidate_hint(kind, number)}"
            )
        return found

    def require_version(self, kind: ModelKind, number: str) -> versions.ModelVersion:
        """Return a version that somebody has named.

        Raises BadInput, with the versions that there are, when it does not exist.
        """
        found = versions.find_version(self.client, self.model(kind), number)
        if found is None:
            condition = f"name = '{self.model(kind)}'"
            there = sorted(int(each.version) for each in model_versions(self.client, condition))
            some = ["..."] * (len(there) > LISTED) + [str(each) for each in there[-LISTED:]]
            raise BadInput(
                f"version {number} of {self.model(kind)} does not exist; it was never made, or"
                f" deleted. Expected one of its versions: {', '.join(some) or 'none is left'}."
                f"{self._candidate_hint(kind, number)}"
            )
        return found

    def _candidate_hint(self, kind: ModelKind, number: str) -> str:
        name = f"{self.name}{CANDIDATES}"
        if versions.find_version(self.client, f"{name}-{kind}", number) is None:
            return ""
        ending = "-reward" if kind == "reward" else ""
        return f" The candidate of that number is promoted by: rlhf promote {name}{ending} {number}"

    def verified_version(self, kind: ModelKind, champion: Champion) -> versions.ModelVersion:
        """Return a version that the ledger names.

        Raises PromotionRefused when its tag 'digest' differs from the ledger's by now.
        """
        found = self.version(kind, champion.version)
        if found.tags.get("digest") != champion.digest:
            raise PromotionRefused(
                f"the tag 'digest' of version {champion.version} of {self.model(kind)} was changed;"
                f" the ledger says {champion.digest[:12]}. Do not use that version."
            )
        return found

    def as_champion(self, kind: ModelKind, number: str) -> Champion:
        """Return a version as the ledger names it."""
        return Champion(version=number, digest=self.version(kind, number).tags.get("digest", ""))


def require_name(name: str) -> None:
    """Raise BadInput for a text that is no registry name."""
    if not NAME.fullmatch(name):
        raise BadInput(
            f"{name!r} is no registry name; expected small letters, digits and hyphens, e.g."
            " quickstart."
        )


def open_registry(name: str, *, must_exist: bool = True) -> tuple[RegistryAliases, ModelKind]:
    """Find the registry name and the kind of model in 'quickstart' or 'quickstart-reward'.

    The kind is 'policy' when the name does not say it. Raises BadInput when such a model must exist
    and does not, and RLHFError within seconds when MLflow does not answer.
    """
    require_name(name)
    workspace = Workspace.here()
    require_address(workspace.tracking_uri)
    try:
        client = connect(workspace.tracking_uri)
        models = {model.name for model in registered_models(client)}
    except Exception as error:
        advice = "Nothing was changed. Start it, or set MLFLOW_TRACKING_URI to where it runs."
        raise unanswered(workspace.tracking_uri, error, advice) from error
    stem, _, ending = name.rpartition("-")
    kind: ModelKind = "policy"
    named = next((each for each in KINDS if each == ending), None)
    if named and models.isdisjoint({f"{name}-policy", f"{name}-reward"}):
        name, kind = stem, named
    if must_exist and f"{name}-{kind}" not in models:
        there = sorted(model for model in models if model.endswith(("-policy", "-reward")))
        raise BadInput(
            f"there is no registered model {name}-{kind}; found {', '.join(there) or 'none'}."
        )
    return RegistryAliases(client, workspace, name), kind


# where the ledger has them


def champion_history(entries: list[LedgerEntry]) -> list[AliasState]:
    """Return the champions, oldest first, the present one last.

    A promotion appends one; a rollback removes those after its target.
    """
    states: list[AliasState] = []
    for entry in entries:
        if entry.outcome == "done" and entry.plan is not None:
            states = history_after(states, entry.action, entry.plan.state)
    return states


def history_after(states: list[AliasState], action: Action, target: AliasState) -> list[AliasState]:
    """Return the history after one more transaction."""
    below = [index for index, state in enumerate(states[:-1]) if state == target]
    return states[: below[-1] + 1] if action == "rollback" and below else [*states, target]


def rollback_targets(states: list[AliasState], kind: ModelKind) -> list[AliasState]:
    """Return the states to which a rollback of `kind` may go, the nearest first."""
    top = states[-1].version(kind) if states else None
    return [state for state in reversed(states[:-1]) if state.version(kind) not in (None, top)]


def drift(state: AliasState, found: AliasVersions) -> str | None:
    """Return how the aliases differ from the ledger, None when they agree."""
    wrong = [
        f"{kind}@{CHAMPION} is {version_text(found[f'{kind}@{CHAMPION}'])}, the ledger says"
        f" {version_text(state.version(kind))}"
        for kind in KINDS
        if found[f"{kind}@{CHAMPION}"] != state.version(kind)
    ]
    return "; ".join(wrong) or None


def version_text(version: str | None) -> str:
    """Return a version for a sentence."""
    return f"version {version}" if version else "none"


# how they move


def move_alias(registry: RegistryAliases, entry: LedgerEntry, plan: AliasPlan, alias: str) -> None:
    """Set `alias` of both models as planned.

    Raises PromotionRefused when 'champion' is neither where it was nor where it goes, or when it
    goes to a deleted version.
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
    """Set every alias as it was before; return which ones could not be restored, and why."""
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
    """Move aliases; remove those whose version was deleted, and return a sentence about each."""
    lost = ""
    for kind, alias in itertools.product(KINDS, (CHAMPION, PREVIOUS)):
        key = f"{kind}@{alias}"
        if key not in wanted:
            continue
        version = wanted[key]
        if version and versions.find_version(registry.client, registry.model(kind), version):
            registry.client.set_registered_model_alias(registry.model(kind), alias, version)
            continue
        registry.client.delete_registered_model_alias(registry.model(kind), alias)
        lost += f" {key} is none now, because version {version} was deleted." if version else ""
    return lost


def smoke_test_alias(registry: RegistryAliases, entry: LedgerEntry, plan: AliasPlan) -> None:
    """Load and run what the alias 'champion' serves now: the entry's model, and the other if moved.

    Where there is no torch, a record of such a test of the same bytes will do. Raises
    PromotionRefused when that fails.
    """
    for kind, champion in plan.state.champions():
        if kind != entry.kind and plan.before[f"{kind}@{CHAMPION}"] == champion.version:
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
        require_testable(version)
        if stages_torch() is None:
            continue
        try:
            with versions.served_files(registry.workspace, version, uri) as folder:
                smoke_test(registry.client, version, folder)
        except BadInput as error:
            raise PromotionRefused(f"{uri} does not load and run: {error}") from error

"""The model that a new policy must beat, and the reward model that this one was trained with."""

import json
from dataclasses import dataclass

from rlhf_core.errors import BadInput
from rlhf_core.rundir import Artifact
from tasks.promotion.aliases import champion_history
from tasks.promotion.ledger import Ledger
from tasks.records.workspace import Workspace
from tasks.registry import versions
from tasks.registry.fetching import fetch
from tasks.registry.versions import CHAMPION


@dataclass(frozen=True)
class Rival:
    """The champion, and its reward model. reward: None where it is not known or not there."""

    policy: Artifact
    reward: Artifact | None = None

    @property
    def artifacts(self) -> dict[str, Artifact]:
        """The models by the names that the evaluation takes them under."""
        found = {"champion": self.policy}
        return found | ({"champion_reward": self.reward} if self.reward else {})


def champion_to_beat(
    client: versions.MlflowClient, workspace: Workspace, model: str, policy_digest: str
) -> Rival | None:
    """Return the model that a policy must beat: the champion, None without one.

    For the champion itself it is the model that it once beat. So a finished pipeline's evaluation
    stays the same when it runs again after its own promotion. The ledger decides who is champion,
    as at promotion; the alias does while there is no ledger.
    """
    version = _champion(client, model)
    if version and version.tags.get("digest") == policy_digest:
        beaten = version.tags.get("compared_with")
        version = versions.version_with_digest(client, model, beaten) if beaten else None
    return _fetched(client, workspace, version)


def present_champion(
    client: versions.MlflowClient, workspace: Workspace, model: str
) -> Rival | None:
    """Return the present champion of a registered model of policies; None without one."""
    return _fetched(client, workspace, _champion(client, model))


def _champion(client: versions.MlflowClient, model: str) -> versions.ModelVersion | None:
    states = champion_history(Ledger(client, model.removesuffix("-policy")).entries())
    number = (
        states[-1].version("policy") if states else versions.aliases(client, model).get(CHAMPION)
    )
    return versions.find_version(client, model, number) if number else None


def _fetched(
    client: versions.MlflowClient, workspace: Workspace, version: versions.ModelVersion | None
) -> Rival | None:
    if version is None:
        return None
    return Rival(fetch(workspace, version), _trained_with(client, workspace, version))


def _trained_with(
    client: versions.MlflowClient, workspace: Workspace, policy: versions.ModelVersion
) -> Artifact | None:
    """Return the reward model that a policy was trained with, by the lineage in its tags.

    None for a policy of DPO or KTO, and where the version was deleted or holds other bytes by now.
    """
    digest = json.loads(policy.tags.get("parents", "{}")).get("reward")
    model = f"{policy.name.removesuffix('-policy')}-reward"
    version = versions.version_with_digest(client, model, digest) if digest else None
    try:
        return fetch(workspace, version) if version else None
    except BadInput:
        return None

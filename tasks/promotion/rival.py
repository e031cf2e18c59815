"""The model that a new policy must beat, and the reward model that this one was trained with."""

import json
from dataclasses import dataclass

from rlhf_core.config import Recipe
from rlhf_core.errors import BadInput, RLHFError
from rlhf_core.rundir import Artifact
from tasks.promotion.aliases import champion_history
from tasks.promotion.ledger import Ledger
from tasks.records.workspace import Workspace
from tasks.registry import versions
from tasks.registry.fetching import fetch
from tasks.registry.versions import CHAMPION
from tasks.stages.reward_start import OF_CHAMPION, require_start
from tasks.stages.spec import Artifacts
from tasks.tracking.account import unanswered
from tasks.tracking.client import connect


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


def models_brought(recipe: Recipe, workspace: Workspace) -> Artifacts:
    """Return the champion's reward model where reward.start or reward.before names it; else {}.

    Raises BadInput where there is none or it does not fit, RLHFError where MLflow does not answer.
    """
    if recipe.reward.champion_key is None:
        return {}
    name, key = recipe.registry.name, recipe.reward.champion_key
    have = {OF_CHAMPION: _reward_of_champion(workspace, name, key)}
    require_start(recipe, have)
    return have


def _reward_of_champion(workspace: Workspace, registry: str, key: str) -> Artifact:
    """Return the reward model that the champion was trained with. key: that asks for it."""
    uri = workspace.tracking_uri
    try:
        champion = present_champion(connect(uri), workspace, f"{registry}-policy")
    except RLHFError:
        raise
    except Exception as error:  # of many kinds
        advice = f"It knows the champion that {key} names; see that it runs, and begin again."
        raise unanswered(uri, error, advice) from error
    if champion is None:
        raise BadInput(
            f"{key} is 'champion', but {registry}-policy has no champion; expected one with its"
            f" reward model. Have a first run promoted (rlhf history {registry}), or leave {key}"
            " out."
        )
    if champion.reward is None:
        raise BadInput(
            f"{key} is 'champion', but the champion of {registry}-policy has no known reward model:"
            " it was trained without one, or the version is gone; expected a champion of PPO whose"
            f" reward model is registered. Give a folder, or leave {key} out."
        )
    return champion.reward


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

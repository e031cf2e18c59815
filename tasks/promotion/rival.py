"""The model that a new policy must beat."""

from rlhf_core.rundir import Artifact
from tasks.promotion.aliases import champion_history
from tasks.promotion.ledger import Ledger
from tasks.records.workspace import Workspace
from tasks.registry import versions
from tasks.registry.versions import CHAMPION


def champion_to_beat(
    client: versions.MlflowClient, workspace: Workspace, model: str, policy_digest: str
) -> Artifact | None:
    """Return the model that a policy must beat: the champion, None without one.

    For the champion itself it is the model that it once beat. So a finished pipeline's evaluation
    stays the same when it runs again after its own promotion. The ledger decides who is champion,
    as at promotion; the alias does while there is no ledger.
    """
    states = champion_history(Ledger(client, model.removesuffix("-policy")).entries())
    number = (
        states[-1].version("policy") if states else versions.aliases(client, model).get(CHAMPION)
    )
    version = versions.find_version(client, model, number) if number else None
    if version and version.tags.get("digest") == policy_digest:
        beaten = version.tags.get("compared_with")
        version = versions.version_with_digest(client, model, beaten) if beaten else None
    return versions.fetch(workspace, version) if version else None

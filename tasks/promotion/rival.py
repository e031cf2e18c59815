"""The model that a new policy must beat."""

from rlhf_core.rundir import Artifact
from tasks.promotion.ledger import Ledger, champion_history
from tasks.records.workspace import Workspace
from tasks.registry import versions
from tasks.registry.versions import CHAMPION


def champion_to_beat(
    client: versions.MlflowClient, workspace: Workspace, model: str, policy_digest: str
) -> Artifact | None:
    """The model that a policy must beat: the champion; for the champion itself the one it once
    beat; None if none.

    The ledger says who is champion, as at promotion; the alias does while there is no ledger. The
    second case keeps a finished pipeline's evaluation the same when it is run again after its own
    promotion.
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

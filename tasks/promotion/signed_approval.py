"""The approval of a version that MLflow's server has signed, where it has accounts."""

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from rlhf_core.config.registry import CANDIDATES
from rlhf_core.errors import BadInput
from tasks.promotion.aliases import RegistryAliases
from tasks.promotion.eligibility import ApprovalMissing, VersionEvidence
from tasks.records.approval_record import ApprovalRecord, evidence_of
from tasks.tracking.account import account_at

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from tasks.registry.approval_queue import ApprovalQueue


def approval_queue(client: "MlflowClient", name: str) -> "ApprovalQueue | None":
    """Return the queue of approvals of a registry name; None where the server has no accounts.

    Raises what account_at and require_queue raise.
    """
    if not account_at(client.tracking_uri).is_authenticated:
        return None
    # MLflow's package for reviews, which takes a second to import
    from tasks.registry.approval_queue import require_queue

    return require_queue(client, name.removesuffix(CANDIDATES))


def signed_approval(
    registry: RegistryAliases, evidence: VersionEvidence, policy: str
) -> ApprovalRecord | None:
    """Return the request for approval of a version, with the answer that the server has signed.

    policy: the digest of its weights. None where its recipe requires no approval, or the server has
    no accounts. Raises ApprovalMissing where it has accounts and no queue of approvals: the record
    in the version's files could be written by the account that has trained it.
    """
    approval = evidence.approval
    if approval is None or not approval.required:
        return None
    try:
        queue = approval_queue(registry.client, registry.name)
    except BadInput as error:
        raise ApprovalMissing(str(error)) from error
    if queue is None:
        return None
    shown, now = evidence_of(policy, evidence.decisions), datetime.now(UTC)
    asked = approval.record or ApprovalRecord(
        evidence=shown, run=registry.name, asked_at=now, until=now
    )
    return queue.ask(asked.model_copy(update={"evidence": shown}))

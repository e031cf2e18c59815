"""The record of one request for a person's approval, and the digest of what that person saw."""

from collections.abc import Iterable
from datetime import datetime
from typing import Literal

from pydantic import BaseModel

from rlhf_core.digest import digest_json
from rlhf_core.gates.decide import Decision
from tasks.records.process_identity import Identity

# of a gate record; the code's digest stays. A contest is decided after the approval
VOLATILE = {"decided_at", "commit", "contest"}


def evidence_digest(policy: str, rival: str | None, decisions: Iterable[Decision]) -> str:
    """Return the digest of what a person sees: the gate records, and the digests of both models.

    policy, rival: digests of the policy's bytes and of the model that it was compared with.
    """
    gates = [decision.model_dump(mode="json", exclude=VOLATILE) for decision in decisions]
    return digest_json({"policy": policy, "rival": rival, "gates": gates})


def evidence_of(policy: str, decisions: list[Decision]) -> str:
    """Return the digest of what a person sees of a version, from its gate records."""
    gates = [decision for decision in decisions if not decision.is_contest]
    rival = next((d.champion_digest for d in decisions if d.is_contest), None)
    return evidence_digest(policy, rival, gates)


class ApprovalRecord(BaseModel):
    """One request for a person's approval of a policy, with the answer. Times are UTC."""

    evidence: str  # see evidence_digest
    run: str  # the pipeline run that asked
    asked_at: datetime
    until: datetime
    state: Literal["waiting", "approved", "rejected", "expired"] = "waiting"
    by: str | None = None
    identity: Identity = "declared"
    allow_self: bool = False  # whoever registered the policy may approve it
    comment: str = ""
    door: Literal["rlhf approve", "Prefect"] | None = None
    decided_at: datetime | None = None
    answer_id: str | None = None  # of the answer through `rlhf approve` that became this decision

    @property
    def sentence(self) -> str:
        """The state in one sentence, without a full stop."""
        if self.state == "waiting":
            return f"waiting for approval until {self.until:%Y-%m-%d %H:%M} UTC"
        if self.state == "expired":
            return (
                "not approved: no decision within"
                f" {(self.until - self.asked_at).total_seconds() / 3600:g} hours"
            )
        word = "approved" if self.state == "approved" else "not approved"
        return f"{word} by {self.by}" + (f": {self.comment}" if self.comment else "")

    def sentence_in(self, run: str) -> str:
        """Return the sentence as `run` says it: with the source, where another run was answered."""
        if self.run == run or self.decided_at is None:
            return self.sentence
        return (
            f"{self.sentence} (decided {self.decided_at:%Y-%m-%d} on the same evidence, {self.run})"
        )


class VersionApproval(BaseModel):
    """The approval that the recipe of a policy version requires, with request and answer so far."""

    required: bool = False
    record: ApprovalRecord | None = None

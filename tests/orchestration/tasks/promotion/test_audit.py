"""The audit: every decision about a version, in order, with account and evidence."""

import contextlib
import json
from datetime import UTC, datetime, timedelta

from rlhf_core.errors import PromotionRefused
from tasks.promotion.audit import audit
from tasks.promotion.promotion import PromotionRequest, promote
from tasks.records.approval_record import ApprovalRecord


def test_attempts_contests_overrides_and_approvals_are_listed_in_order(registry):
    client, now = registry.client, datetime.now(UTC)
    override = {"threshold": 0.55, "reason": "shown for the record", "by": "kim"}
    answer = ApprovalRecord(
        evidence="e" * 64,
        run="tiny-1",
        asked_at=now,
        until=now + timedelta(hours=72),
        state="approved",
        by="ann",
        comment="reads well",
        decided_at=now + timedelta(hours=1),
    )
    lost = {"promote.champion": {"verdict": "refused", "reason": "wins 40.0%"}}
    for tag, value in {
        "overrides": json.dumps({"reward.accuracy": override}),
        "verdicts": json.dumps(lost),
        "approval": answer.model_dump_json(),
    }.items():
        client.set_model_version_tag("tiny-policy", "2", tag, value)
    promote(registry, PromotionRequest(version="2"))
    with contextlib.suppress(PromotionRefused):
        promote(registry, PromotionRequest(version="5"))

    found = audit(client)
    assert not found.problems
    assert [event.time for event in found.events] == sorted(event.time for event in found.events)
    attempts = [event for event in found.events if event.event == "promote"]
    assert [(event.version, event.outcome) for event in attempts] == [
        ("1", "done"),
        ("2", "done"),
        ("5", "refused"),
    ]
    assert all("@" in event.by for event in attempts)
    assert attempts[1].evidence == client.get_model_version("tiny-policy", "2").tags["digest"]
    others = {event.event: event for event in found.events if event.event != "promote"}
    assert (others["override"].by, others["override"].outcome) == ("kim", "overridden")
    assert others["override"].reason == "reward.accuracy, threshold 0.55: shown for the record"
    assert (others["contest"].outcome, others["contest"].reason) == ("refused", "wins 40.0%")
    assert (others["approval"].by, others["approval"].evidence) == ("ann", "e" * 64)
    assert [e.event for e in audit(client, since=now + timedelta(minutes=30)).events] == [
        "approval"
    ]


def test_an_altered_ledger_is_a_problem_of_the_audit(registry):
    promote(registry, PromotionRequest(version="2"))
    registry.client.set_model_version_tag("tiny-ledger", "1", "by", "somebody")
    (problem,) = audit(registry.client).problems
    assert problem.startswith("tiny: One of entries 1 to 1 was altered")

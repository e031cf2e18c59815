"""The audit: every decision about a version, in order, with account and evidence."""

import contextlib
import json
from datetime import UTC, datetime, timedelta

from rlhf_core.errors import PromotionRefused
from tasks.promotion.aliases import RegistryAliases, open_registry
from tasks.promotion.audit import audit
from tasks.promotion.promotion import PromotionRequest, promote
from tasks.records.approval_record import ApprovalRecord
from tasks.tracking import pages

OF_ENTRIES = ("promote", "contest")


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
    for tag, value in {
        "overrides": json.dumps({"reward.accuracy": override}),
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
    others = {event.event: event for event in found.events if event.event not in OF_ENTRIES}
    assert (others["override"].by, others["override"].outcome) == ("kim", "overridden")
    assert others["override"].reason == "reward.accuracy, threshold 0.55: shown for the record"
    assert (others["approval"].by, others["approval"].evidence) == ("ann", "e" * 64)
    assert [e.event for e in audit(client, since=now + timedelta(minutes=30)).events] == [
        "approval"
    ]


def test_an_altered_ledger_is_a_problem_of_the_audit(registry):
    promote(registry, PromotionRequest(version="2"))
    registry.client.set_model_version_tag("tiny-ledger", "1", "by", "somebody")
    (problem,) = audit(registry.client).problems
    assert problem.startswith("tiny: One of entries 1 to 1 was altered")


def test_each_contest_of_a_version_is_listed_with_its_own_date_account_and_evidence(registrar):
    """Version 5 loses to version 1, then beats version 2 by other records."""
    registry = registrar.registry
    with contextlib.suppress(PromotionRefused):
        promote(registry, PromotionRequest(version="5"))
    promote(registry, PromotionRequest(version="2"))
    registrar.policy(5, beats="2", wins=0.8)
    tag_contest(registry, "5", "passed")
    promote(registry, PromotionRequest(version="5"))
    contests = [event for event in audit(registry.client).events if event.event == "contest"]
    entries = [entry for entry in registry.ledger.entries() if entry.contest]
    assert [(e.version, e.outcome, e.time, e.by, e.identity) for e in contests] == [
        (entry.version, outcome, entry.time, entry.by, "declared")
        for entry, outcome in zip(entries, ("refused", "passed", "passed"), strict=True)
    ]
    assert [e.evidence for e in contests] == [e.contest.items for e in entries if e.contest]
    assert len({event.evidence for event in contests}) == 3
    assert contests[0].reason.startswith("it wins 40.0% of 250 decided prompts by eval/win_rate")
    assert "contest 3 on these held-out prompts; rule: lower 95% bound of" in contests[2].reason


def test_a_contest_that_was_never_offered_for_promotion_is_listed_by_its_version(registry):
    tag_contest(registry, "2", "refused")
    (contest,) = [event for event in audit(registry.client).events if event.event == "contest"]
    assert (contest.version, contest.outcome, contest.by) == ("2", "refused", "")
    assert contest.reason == "wins 40.0%; by the version's tag, the ledger holds none"


def tag_contest(registry: RegistryAliases, version: str, verdict: str) -> None:
    """Tag a version as its registration does, with the contest that was decided there."""
    contest = {"promote.champion": {"verdict": verdict, "reason": "wins 40.0%"}}
    name = registry.model("policy")
    registry.client.set_model_version_tag(name, version, "verdicts", json.dumps(contest))


def test_every_page_of_models_versions_and_entries_is_read(registry, monkeypatch):
    promote(registry, PromotionRequest(version="2"))
    for version in ("2", "3"):
        override = {"threshold": 0.5, "reason": "r", "by": "kim"}
        tag = json.dumps({"reward.accuracy": override})
        registry.client.set_model_version_tag("tiny-policy", version, "overrides", tag)
    whole = audit(registry.client)
    monkeypatch.setattr(pages, "PAGE", 1)
    assert audit(registry.client) == whole and len(whole.events) == 5
    assert open_registry("tiny-reward")[1] == "reward"

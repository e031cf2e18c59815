"""The gate records, the contest and the approval that a promotion requires."""

from datetime import UTC, datetime

import pytest
from promotion_checks import champions, files, refused

from rlhf_core.config.gate_rules import Override
from rlhf_core.rundir import Artifact
from tasks.promotion.eligibility import ApprovalMissing, ContestLost
from tasks.promotion.promotion import PromotionRequest, promote, rollback
from tasks.records.approval_record import ApprovalRecord, VersionApproval, evidence_digest
from tasks.registry import versions


def test_a_policy_that_lost_or_never_met_the_champion_is_refused_unless_somebody_says_why(registry):
    with refused(
        registry, r"wins 40.0% .* version 1, required a lower bound of more than 50.0%", ContestLost
    ):
        promote(registry, PromotionRequest(version="5"))
    with refused(registry, "not compared with the present champion, version 1", ContestLost):
        promote(registry, PromotionRequest(version="4"))
    result = promote(registry, PromotionRequest(version="5", contest_override="the judge was down"))
    assert (
        champions(registry) == ("5", "1", "1", None)
        and "without beating it: the judge was down" in result.reason
    )
    assert (
        registry.client.get_model_version("tiny-policy", "5")
        .tags["contest_override"]
        .endswith(": the judge was down")
    )
    assert registry.ledger.entries()[-1].contest_override == "the judge was down"
    with refused(registry, "not compared with the present champion, version 5", ContestLost):
        promote(registry, PromotionRequest(version="2"))  # it beat version 1


def bad_records(registrar, digest: str) -> dict[str, tuple[list, str]]:
    """Return records that forbid a promotion, with the text of the refusal."""
    good = registrar.records("policy", digest)
    return {
        "missing": ([record for record in good if record.stage != "ppo"], "no gate record of ppo"),
        "none": ([], "no gate record of sft and reward and ppo and evaluate"),
        "refused": (
            [*good[:-1], good[-1].model_copy(update={"passed": False})],
            "refused by its gates: evaluate",
        ),
        "of no model": (
            [*good[:-1], good[-1].model_copy(update={"model_digest": None})],
            r"evaluate\.g is about no model",
        ),
        "others": (
            [*good[:-1], good[-1].model_copy(update={"model_digest": "f" * 64})],
            r"evaluate\.g is about a model with",
        ),
    }


@pytest.mark.parametrize("case", ["missing", "none", "refused", "of no model", "others"])
def test_every_gate_record_is_read_again(registrar, case):
    digest = Artifact.of(registrar.models / "policy-2").digest
    records, says = bad_records(registrar, digest)[case]
    # the same bytes: the same version, other records
    assert registrar.add("policy", 2, records, reward_version="1") == "2"
    with refused(registrar.registry, says):
        promote(registrar.registry, PromotionRequest(version="2"))
    assert (
        registrar.policy(2, beats="1") == "2"
        and promote(registrar.registry, PromotionRequest(version="2")).promoted
    )


def test_a_warning_stops_nothing_an_overridden_gate_is_named_and_a_given_sft_model_needs_no_record(
    registrar,
):
    digest = Artifact.of(registrar.models / "policy-2").digest
    override = Override(threshold=0.4, reason="demonstration only", by="ann")
    _, reward, ppo, evaluate = registrar.records("policy", digest)
    records = [
        reward.model_copy(update={"override": override}),
        ppo,
        evaluate,
        evaluate.model_copy(update={"gate": "soft", "passed": False, "severity": "warning"}),
    ]
    registrar.add("policy", 2, records, reward_version="1", given='["sft"]')
    result = promote(
        registrar.registry, PromotionRequest(version="2", contest_override="first of its kind")
    )
    assert (
        result.promoted
        and "overridden: reward.g (to 0.4 by ann: demonstration only)" in result.reason
    )


def test_only_an_sft_model_may_be_given_without_a_record(registrar):
    registrar.add("policy", 2, [], reward_version="1", given='["sft", "reward", "ppo", "evaluate"]')
    with refused(registrar.registry, "no gate record of reward and ppo and evaluate"):
        promote(registrar.registry, PromotionRequest(version="2"))


# who must be asked


def asked(registrar, version: str, rival: str | None, **changes: object) -> VersionApproval:
    """Return the approval of this version's bytes and records, against this rival."""
    digest = registrar.digests["policy", version]
    shown = evidence_digest(
        digest, rival and registrar.digests["policy", rival], registrar.records("policy", digest)
    )
    when = datetime(2026, 1, 2, tzinfo=UTC)
    values = {
        "evidence": shown,
        "run": "tiny-1",
        "asked_at": when,
        "until": when,
        "state": "approved",
        "by": "Ann",
    }
    return VersionApproval(
        required=True,
        record=ApprovalRecord.model_validate(values | {"comment": "reads well"} | changes),
    )


def test_a_policy_whose_recipe_requires_approval_is_promoted_with_it(registrar):
    registrar.approval = asked(registrar, "2", "1")
    registrar.policy(2, beats="1")
    assert (
        promote(registrar.registry, PromotionRequest(version="2")).promoted
        and rollback(registrar.registry, PromotionRequest()).version == "1"
    )


NOT_APPROVED = {
    "never asked": (
        lambda registrar: VersionApproval(required=True),
        r"none is recorded \(nobody was asked\)",
    ),
    "waiting": (
        lambda registrar: asked(registrar, "2", "1", state="waiting"),
        r"\(waiting for approval until 2026-01-02 00:00 UTC\)",
    ),
    "rejected": (
        lambda registrar: asked(registrar, "2", "1", state="rejected"),
        r"\(not approved by Ann: reads well\)",
    ),
    "expired": (
        lambda registrar: asked(registrar, "2", "1", state="expired"),
        r"\(not approved: no decision within 0 hours\)",
    ),
    "other bytes": (
        lambda registrar: asked(registrar, "3", "1"),
        "approved by Ann: reads well, but on other bytes or other gate records",
    ),
    "other rival": (
        lambda registrar: asked(registrar, "2", None),
        "but on other bytes or other gate records",
    ),
}


@pytest.mark.parametrize("case", NOT_APPROVED)
def test_without_a_valid_approval_it_is_refused(registrar, case):
    made, says = NOT_APPROVED[case]
    registrar.approval = made(registrar)
    registrar.policy(2, beats="1")
    with refused(
        registrar.registry,
        rf"^Version 2 of tiny-policy is not promoted: .*{says}.*--approved-by NAME",
        ApprovalMissing,
    ):
        promote(registrar.registry, PromotionRequest(version="2"))


def test_who_approved_may_be_said_with_the_promotion_and_stands_in_ledger_and_version(registrar):
    registrar.approval, registry = asked(registrar, "2", "1", state="rejected"), registrar.registry
    registrar.policy(2, beats="1")
    result = promote(
        registry,
        PromotionRequest(version="2", approved_by="Bea", approval_comment="read fifty replies"),
    )
    assert result.promoted and result.reason.endswith("; approved by Bea: read fifty replies.")
    entry = registry.ledger.entries()[-1]
    assert (entry.approved_by, entry.approval_comment, entry.outcome) == (
        "Bea",
        "read fifty replies",
        "done",
    )
    assert (
        registry.client.get_model_version("tiny-policy", "2")
        .tags["approved_by_hand"]
        .startswith("approved by Bea: read fifty")
    )


def test_a_version_that_does_not_say_whether_approval_is_required_is_refused(registrar):
    files(registrar.registry, "2").joinpath("approval.json").unlink()
    digest = versions._frame_digests(files(registrar.registry, "2"))["frame_digest"]
    registrar.registry.client.set_model_version_tag("tiny-policy", "2", "frame_digest", digest)
    with refused(
        registrar.registry,
        "do not say whether its recipe requires a person's approval",
        ApprovalMissing,
    ):
        promote(registrar.registry, PromotionRequest(version="2"))
    files(registrar.registry, "2").joinpath("approval.json").write_text("[]")
    digest = versions._frame_digests(files(registrar.registry, "2"))["frame_digest"]
    registrar.registry.client.set_model_version_tag("tiny-policy", "2", "frame_digest", digest)
    with refused(registrar.registry, "does not say whether approval is required"):
        promote(
            registrar.registry,
            PromotionRequest(version="2", approved_by="Bea", approval_comment="fine"),
        )


def test_a_policy_of_an_earlier_release_must_be_registered_again(registrar):
    registrar.registry.client.delete_model_version_tag("tiny-policy", "2", "reward_version")
    with refused(registrar.registry, "does not say which reward model"):
        promote(registrar.registry, PromotionRequest(version="2"))

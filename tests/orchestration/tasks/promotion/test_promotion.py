"""Promotion and rollback: what moves, what is refused; a refusal changes only the ledger."""

import contextlib
import json
import shutil
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import mlflow
import pytest
import torch
from safetensors.torch import load_file, save_file

from rlhf_core.config.gate_rules import Override
from rlhf_core.digest import digest_path
from rlhf_core.errors import BadInput, PromotionRefused, RLHFError
from rlhf_core.rundir import Artifact
from tasks.promotion import aliases, announce, transaction
from tasks.promotion.aliases import RegistryAliases
from tasks.promotion.eligibility import ApprovalMissing, ContestLost
from tasks.promotion.promotion import PromotionRequest, history, promote, rollback
from tasks.records.approval_record import ApprovalRecord, SignOff, evidence_digest
from tasks.registry import versions
from tasks.registry.packaging import local_folder


def champions(registry: RegistryAliases) -> tuple[str | None, ...]:
    """Return policy@champion, policy@previous, reward@champion, reward@previous."""
    return tuple(registry.aliases().values())


@contextlib.contextmanager
def refused(
    registry: RegistryAliases,
    match: str,
    error: type[Exception] = PromotionRefused,
    outcome: str = "refused",
) -> Iterator[None]:
    """Check that what is done inside is refused with a message that the ledger keeps.

    No alias and no version may change.
    """

    def versions() -> list:
        names = ("tiny-policy", "tiny-reward")
        return [
            sorted(dict(v.tags).items())
            for name in names
            for v in registry.client.search_model_versions(f"name='{name}'")
        ]

    before, aliases, count = versions(), registry.aliases(), len(registry.ledger.entries())
    with pytest.raises(error, match=match) as raised:
        yield
    entries = registry.ledger.entries()
    assert versions() == before and registry.aliases() == aliases
    assert len(entries) == count + 1 and entries[-1].outcome == outcome
    assert entries[-1].outcome_reason == str(raised.value)


def files(registry: RegistryAliases, version: str, kind: str = "policy") -> Path:
    return local_folder(registry.client.get_model_version(registry.model(kind), version).source)


@contextlib.contextmanager
def replaced(file: Path, content: bytes) -> Iterator[None]:
    """Put other bytes into a file for a while; leave its hard links alone."""
    kept = file.with_name("kept")
    file.rename(kept)
    try:
        file.write_bytes(content)
        yield
    finally:
        kept.replace(file)


# what moves


def test_a_winner_becomes_champion_with_its_reward_model_and_the_old_one_previous(registry):
    assert champions(registry) == ("1", None, "1", None)
    result = promote(registry, PromotionRequest(version="3", reason="better"))
    assert (
        result.promoted
        and result.replaced == "1"
        and "it wins 70.0% against version 1" in result.reason
    )
    assert champions(registry) == ("3", "1", "2", "1")
    entry = history(registry).entries[-1]
    assert (entry.action, entry.version, entry.expects, entry.outcome, entry.reason) == (
        "promote",
        "3",
        "1",
        "done",
        "better",
    )
    again = promote(registry, PromotionRequest(version="3"))
    assert (
        again.promoted
        and "already" in again.reason
        and len(history(registry).entries) == entry.number
    )


def test_rollbacks_go_back_one_by_one_and_bring_the_reward_models_with_them(registrar):
    registry = registrar.registry
    promote(registry, PromotionRequest(version="2"))
    promote(registry, PromotionRequest(version="4"))
    promote(registry, PromotionRequest(version="3", contest_override="shorter replies are wanted"))
    assert champions(registry) == ("3", "4", "2", "1")
    assert rollback(registry, PromotionRequest(reason="it swears")).version == "4" and champions(
        registry
    ) == ("4", "2", "1", None)
    assert rollback(registry, PromotionRequest()).version == "2" and champions(registry) == (
        "2",
        "1",
        "1",
        None,
    )
    assert rollback(registry, PromotionRequest()).version == "1" and champions(registry) == (
        "1",
        None,
        "1",
        None,
    )
    with pytest.raises(PromotionRefused, match="no earlier champion"):
        rollback(registry, PromotionRequest())
    assert [entry.outcome for entry in registry.ledger.entries()] == ["done"] * 7
    assert promote(registry, PromotionRequest(version="2")).replaced == "1" and champions(
        registry
    ) == ("2", "1", "1", None)


def test_a_rollback_goes_to_the_nearest_of_two_reigns_of_one_version(registry):
    for version in ("2", "1", "3"):
        promote(registry, PromotionRequest(version=version, contest_override="to and fro"))
    assert rollback(registry, PromotionRequest()).version == "1" and champions(registry) == (
        "1",
        "2",
        "1",
        None,
    )
    assert rollback(registry, PromotionRequest()).version == "2" and champions(registry) == (
        "2",
        "1",
        "1",
        None,
    )


def test_a_rollback_skips_a_champion_that_was_deleted_or_has_other_bytes(registry):
    promote(registry, PromotionRequest(version="2"))
    promote(registry, PromotionRequest(version="4"))
    registry.client.delete_model_version("tiny-policy", "2")
    result = rollback(registry, PromotionRequest())
    assert result.version == "1" and champions(registry) == ("1", None, "1", None)
    assert "Skipped version 2" in registry.ledger.entries()[-1].outcome_reason
    promote(registry, PromotionRequest(version="3"))
    weights = files(registry, "1") / "artifacts/model/model.safetensors"
    with (
        replaced(weights, b"x"),
        pytest.raises(PromotionRefused, match=r"Skipped version 1: .*other weights"),
    ):
        rollback(registry, PromotionRequest())
    assert champions(registry) == ("3", "1", "2", "1")


def test_a_reward_model_can_be_promoted_and_rolled_back_alone(registry):
    assert promote(registry, PromotionRequest(kind="reward", version="2")).promoted
    assert champions(registry) == ("1", None, "2", "1")
    with pytest.raises(PromotionRefused, match="no earlier champion"):
        rollback(registry, PromotionRequest())  # the policy has had no other
    assert rollback(registry, PromotionRequest(kind="reward")).version == "1" and champions(
        registry
    ) == ("1", None, "1", None)


def test_a_champion_whose_bytes_and_digest_were_both_changed_is_not_rolled_back_to(registry):
    promote(registry, PromotionRequest(version="2"))
    weights = files(registry, "1") / "artifacts/model/model.safetensors"
    with replaced(weights, b"x"):
        registry.client.set_model_version_tag(
            "tiny-policy", "1", "digest", digest_path(weights.parent)
        )
        with pytest.raises(
            PromotionRefused,
            match=r"Skipped version 1: the tag 'digest' .* was changed; the ledger says",
        ):
            rollback(registry, PromotionRequest())
    assert champions(registry) == ("2", "1", "1", None)


def test_what_mlflow_serves_as_champion_is_what_was_registered(registrar):
    promote(registrar.registry, PromotionRequest(version="2"))
    folder = Path(mlflow.artifacts.download_artifacts("models:/tiny-policy@champion"))
    assert digest_path(folder / "artifacts/model") == registrar.digests["policy", "2"]


def test_prefect_is_told_once_of_each_model_that_has_another_champion_and_of_no_refusal(
    registry, monkeypatch
):
    told = []
    monkeypatch.setattr(
        announce, "publish", lambda event, about, what: told.append((event, about, what["version"]))
    )
    promote(registry, PromotionRequest(version="2"))  # its reward model is champion already
    with refused(registry, "was not compared", ContestLost):
        promote(registry, PromotionRequest(version="5"))
    assert told == [("rlhf.promoted", "rlhf.model.tiny-policy", "2")]
    promote(registry, PromotionRequest(kind="reward", version="2"))
    promote(registry, PromotionRequest(kind="reward", version="2"))  # it is champion already
    assert told[1:] == [("rlhf.promoted", "rlhf.model.tiny-reward", "2")]
    rollback(registry, PromotionRequest())
    assert {resource for _, resource, _ in told[2:]} == {
        "rlhf.model.tiny-policy",
        "rlhf.model.tiny-reward",
    }


# who may not


def test_a_policy_that_lost_or_never_met_the_champion_is_refused_unless_somebody_says_why(registry):
    with refused(registry, r"wins 40.0% .* version 1, required more than 50.0%", ContestLost):
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
            r"evaluate\.g speaks of no model",
        ),
        "others": (
            [*good[:-1], good[-1].model_copy(update={"model_digest": "f" * 64})],
            r"evaluate\.g speaks of a model with",
        ),
    }


@pytest.mark.parametrize("case", ["missing", "none", "refused", "of no model", "others"])
def test_every_gate_record_is_read_again(registrar, case):
    digest = Artifact.of(registrar.models / "policy-2").digest
    records, says = bad_records(registrar, digest)[case]
    assert (
        registrar.add("policy", 2, records, reward_version="1") == "2"
    )  # the same bytes: the same version, other records
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


def asked(registrar, version: str, rival: str | None, **changes: object) -> SignOff:
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
    return SignOff(
        required=True,
        record=ApprovalRecord.model_validate(values | {"comment": "reads well"} | changes),
    )


def test_a_policy_whose_recipe_requires_approval_is_promoted_with_it(registrar):
    registrar.sign_off = asked(registrar, "2", "1")
    registrar.policy(2, beats="1")
    assert (
        promote(registrar.registry, PromotionRequest(version="2")).promoted
        and rollback(registrar.registry, PromotionRequest()).version == "1"
    )


NOT_APPROVED = {
    "never asked": (
        lambda registrar: SignOff(required=True),
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
    registrar.sign_off = made(registrar)
    registrar.policy(2, beats="1")
    with refused(
        registrar.registry,
        rf"^Version 2 of tiny-policy is not promoted: .*{says}.*--approved-by NAME",
        ApprovalMissing,
    ):
        promote(registrar.registry, PromotionRequest(version="2"))


def test_who_approved_may_be_said_with_the_promotion_and_stands_in_ledger_and_version(registrar):
    registrar.sign_off, registry = asked(registrar, "2", "1", state="rejected"), registrar.registry
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


@pytest.mark.parametrize(
    ("name", "content", "what"),
    [
        ("artifacts/model/model.safetensors", b"other weights", "other weights"),
        ("artifacts/model/extra.json", b"{}", "other weights"),
        ("gates.json", b'{"decisions": []}', "other gate records"),
        ("policy_model.py", b"import os", "other code, MLmodel or approval"),
        ("sitecustomize.py", b"import os", "other code, MLmodel or approval"),
        ("approval.json", b'{"required": false}', "other code, MLmodel or approval"),
    ],
)
def test_tampered_files_are_refused(registry, name, content, what):
    file = files(registry, "2") / name
    existed = file.exists()
    with contextlib.ExitStack() as stack:
        if existed:
            stack.enter_context(replaced(file, content))
        else:
            file.write_bytes(content)
            stack.callback(file.unlink)
        with refused(registry, f"version 2 of tiny-policy has {what} than when it was registered"):
            promote(registry, PromotionRequest(version="2"))


def test_a_tampered_reward_model_stops_its_policy(registry):
    weights = files(registry, "2", "reward") / "artifacts/model/model.safetensors"
    with replaced(weights, b"x"), refused(registry, "version 2 of tiny-reward has other weights"):
        promote(registry, PromotionRequest(version="3"))


def broken(registrar, change) -> str:
    """Register a policy with weights changed by `change`, all gates passed; return its version."""
    source, target = registrar.models / "policy-2", registrar.models / "policy-99"
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target)
    weights = load_file(target / "model.safetensors")
    save_file(change(weights), target / "model.safetensors", metadata={"format": "pt"})
    return registrar.policy(99, beats="1")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            lambda weights: {
                name: torch.full_like(value, float("nan")) for name, value in weights.items()
            },
            "not finite",
        ),
        (
            lambda weights: {
                name: value for name, value in weights.items() if "q_proj" not in name
            },
            "lacks the weights",
        ),
        (
            lambda weights: {name: value[:1] for name, value in weights.items()},
            "cannot be loaded and run",
        ),
    ],
)
def test_a_champion_that_does_not_run_is_put_back(registrar, change, says):
    version = broken(registrar, change)
    with refused(registrar.registry, says, outcome="reverted"):
        promote(registrar.registry, PromotionRequest(version=version))


def test_a_version_or_name_that_does_not_exist_is_refused_before_anything_is_written(registry):
    for version, kind in (("77", "policy"), ("77", "reward")):
        with pytest.raises(PromotionRefused, match=f"version 77 of tiny-{kind} does not exist"):
            promote(registry, PromotionRequest(kind=kind, version=version))
    registry.client.delete_model_version("tiny-policy", "2")
    with pytest.raises(PromotionRefused, match="deleted"):
        promote(registry, PromotionRequest(version="2"))
    with pytest.raises(
        BadInput, match=r"no registered model other-policy; found tiny-policy, tiny-reward"
    ):
        aliases.open_registry("other")
    with pytest.raises(BadInput, match="no registry name"):
        aliases.open_registry("x' or '1'='1")
    assert len(registry.ledger.entries()) == 1


def test_a_deleted_reward_version_stops_its_policy(registry):
    registry.client.delete_model_version("tiny-reward", "2")
    with refused(registry, "version 2 of tiny-reward does not exist"):
        promote(registry, PromotionRequest(version="3"))


# other promoters


def test_a_champion_other_than_expected_is_refused(registry):
    with refused(registry, "champion of tiny-policy is version 1, expected version 7"):
        promote(registry, PromotionRequest(version="2", expects="7"))
    with refused(registry, "is version 1, expected none"):
        promote(registry, PromotionRequest(version="2", expects=""))
    with refused(registry, "is version 1, expected version 2"):
        promote(registry, PromotionRequest(version="2", expects="2"))
    assert promote(registry, PromotionRequest(version="2", expects="1")).promoted


def test_while_one_is_at_work_others_are_refused_and_named_the_reason(registry):
    busy = registry.ledger.append("promote", "tiny-policy", "2")
    registry.ledger.record_step(busy, "smoke")
    with refused(
        registry,
        r"entry 2 \(promote tiny-policy 2, by .*\) is at work \(step 'smoke'\), and one attempt at"
        r" a time",
    ):
        promote(registry, PromotionRequest(version="3"))
    registry.ledger.release(busy)  # as a killed process
    assert promote(registry, PromotionRequest(version="3")).promoted
    assert [(entry.action, entry.outcome) for entry in registry.ledger.entries()[1:]] == [
        ("promote", "undone"),
        ("promote", "refused"),
        ("recover", "done"),
        ("promote", "done"),
    ]


def test_an_attempt_that_was_taken_for_dead_moves_nothing_more(registry, monkeypatch):
    """As a process that slept longer than its lease, while another machine ended its entry."""
    examine = transaction.check_version

    def slept(*args):
        registry.ledger.close(registry.ledger.entries()[-1], "undone", "taken for dead")
        return examine(*args)

    monkeypatch.setattr(transaction, "check_version", slept)
    with pytest.raises(PromotionRefused, match="taken for dead"):
        promote(registry, PromotionRequest(version="2"))
    assert (
        champions(registry) == ("1", None, "1", None)
        and registry.ledger.entries()[-1].outcome == "undone"
    )


def test_an_alias_moved_by_hand_during_an_attempt_is_left_and_reported(registry, monkeypatch):
    smoke = transaction.smoke_test_alias

    def meddled(*args):
        registry.client.set_registered_model_alias("tiny-policy", "champion", "4")
        smoke(*args)

    monkeypatch.setattr(transaction, "smoke_test_alias", meddled)
    with pytest.raises(PromotionRefused, match="serves version 4, expected version 2"):
        promote(registry, PromotionRequest(version="2"))
    last = registry.ledger.entries()[-1]
    assert (
        last.outcome == "reverted"
        and "moved by somebody else and is left at version 4" in last.outcome_reason
    )
    assert "the ledger says version 1" in history(registry).problems[0]


def killed_after_the_switch(registry: RegistryAliases) -> None:
    """Leave what a promotion of version 2 leaves when it is killed after the alias has moved."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(transaction, "smoke_test_alias", lambda *args: 1 / 0)
        patch.setattr(transaction, "_roll_back", lambda *args: None)
        with pytest.raises(ZeroDivisionError):
            promote(registry, PromotionRequest(version="2"))
    assert (
        champions(registry) == ("2", None, "1", None) and not registry.ledger.entries()[-1].outcome
    )


def test_a_killed_promotion_is_completed_though_the_old_champion_was_deleted_meanwhile(registry):
    killed_after_the_switch(registry)
    registry.client.delete_model_version("tiny-policy", "1")
    assert history(registry).problems == ["Entry 2 was completed."] and champions(registry) == (
        "2",
        None,
        "1",
        None,
    )


def test_a_killed_promotion_of_a_version_with_other_bytes_is_undone(registry):
    killed_after_the_switch(registry)
    with replaced(files(registry, "2") / "artifacts/model/model.safetensors", b"x"):
        assert (
            "Entry 2 was undone: version 2 of tiny-policy may not be champion"
            in history(registry).problems[0]
        )
    assert (
        champions(registry) == ("1", None, "1", None)
        and registry.ledger.entries()[1].outcome == "undone"
    )


def test_when_neither_the_new_nor_the_old_champion_is_whole_there_is_none_until_somebody_says_so(
    registry,
):
    killed_after_the_switch(registry)
    registry.client.delete_model_version("tiny-policy", "1")
    with replaced(files(registry, "2") / "artifacts/model/model.safetensors", b"x"):
        told, drifted = history(registry).problems
    assert "policy@champion is none now, because version 1 was deleted" in told
    assert (
        "policy@champion is none, the ledger says version 1" in drifted
        and champions(registry)[0] is None
    )
    assert promote(
        registry, PromotionRequest(version="3", adopt=True, reason="start anew")
    ).promoted
    assert champions(registry) == ("3", None, "2", "1")


# aliases behind the ledger's back


def move_by_hand(registry: RegistryAliases, version: str) -> None:
    registry.client.set_registered_model_alias("tiny-policy", "champion", version)


def test_a_moved_alias_is_refused_and_can_be_put_back_or_adopted(registry):
    move_by_hand(registry, "2")
    for ask in (
        lambda: promote(registry, PromotionRequest(version="3")),
        lambda: promote(registry, PromotionRequest(version="2")),
    ):
        with refused(
            registry,
            r"behind the ledger's back: policy@champion is version 2, the ledger says version"
            r" 1\..*--adopt",
        ):
            ask()
    with refused(registry, "not compared with the present champion, version 1", ContestLost):
        promote(registry, PromotionRequest(version="4", adopt=True, reason="somebody clicked"))
    assert promote(
        registry, PromotionRequest(version="1", adopt=True, reason="somebody clicked")
    ).promoted
    assert champions(registry) == ("1", None, "1", None)
    entry = registry.ledger.entries()[-1]
    assert (
        entry.adopted == "policy@champion is version 2, the ledger says version 1"
        and entry.outcome == "done"
    )
    move_by_hand(registry, "2")
    assert promote(
        registry, PromotionRequest(version="2", adopt=True, reason="it was right")
    ).promoted
    assert champions(registry) == ("2", "1", "1", None) and history(registry).problems == []


def test_a_deleted_champion_is_refused_and_left_by_a_rollback(registry):
    promote(registry, PromotionRequest(version="2"))
    registry.client.delete_model_version("tiny-policy", "2")
    assert "policy@champion is none, the ledger says version 2" in history(registry).problems[0]
    with refused(registry, "policy@champion is none, the ledger says version 2"):
        promote(registry, PromotionRequest(version="3"))
    with refused(registry, "policy@champion is none, the ledger says version 2"):
        rollback(registry, PromotionRequest())
    assert rollback(registry, PromotionRequest(adopt=True, reason="it was deleted")).version == "1"
    assert champions(registry) == ("1", None, "1", None) and history(registry).problems == []


def test_a_registry_that_had_a_champion_before_it_had_a_ledger_is_adopted_once(registrar):
    registry = registrar.registry
    registry.client.delete_registered_model("tiny-ledger")
    assert history(registry).entries == []
    with pytest.raises(
        PromotionRefused, match="policy@champion is version 1, the ledger says none"
    ):
        promote(registry, PromotionRequest(version="2"))
    assert promote(
        registry, PromotionRequest(version="2", adopt=True, reason="the ledger begins here")
    ).promoted
    assert (
        champions(registry) == ("2", None, "1", None)
        and promote(registry, PromotionRequest(version="4")).promoted
    )


def test_the_alias_previous_is_mended_by_the_next_promotion_for_a_rollback_asks_the_ledger(
    registry,
):
    promote(registry, PromotionRequest(version="2"))
    registry.client.set_registered_model_alias("tiny-policy", "previous", "5")
    assert promote(registry, PromotionRequest(version="4")).promoted and champions(registry)[
        :2
    ] == ("4", "2")
    registry.client.delete_registered_model_alias("tiny-policy", "previous")
    assert rollback(registry, PromotionRequest()).version == "2"


def test_history_names_deleted_entries(registry):
    promote(registry, PromotionRequest(version="2"))
    promote(registry, PromotionRequest(version="4"))
    registry.client.delete_model_version("tiny-ledger", "2")
    assert history(registry).problems == ["Entries 2 were deleted."]


# no server


def test_a_server_that_is_not_there_is_one_error_within_seconds(registry, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    began = time.monotonic()
    with pytest.raises(
        RLHFError, match=r"http://127.0.0.1:9 does not answer .*Nothing was changed"
    ):
        aliases.open_registry("tiny")
    assert time.monotonic() - began < 20


# registering


def test_the_same_bytes_are_one_version_also_when_two_register_at_once(registrar, monkeypatch):
    registry, look = registrar.registry, versions.version_with_digest
    answers = iter(
        [None, None]
    )  # as if nobody had registered them yet: store_model's look and register's
    monkeypatch.setattr(versions, "version_with_digest", lambda *args: next(answers, look(*args)))
    assert registrar.policy(2) == "2"
    found = registry.client.search_model_versions(
        f"name = 'tiny-policy' and tags.digest = '{registrar.digests['policy', '2']}'"
    )
    assert [str(version.version) for version in found] == ["2"]


def test_a_version_says_where_it_comes_from(registry):
    tags = registry.client.get_model_version("tiny-policy", "3").tags
    assert (
        tags["reward_version"] == "2"
        and len(tags["gates_digest"]) == len(tags["frame_digest"]) == 64
    )
    records = json.loads((files(registry, "3") / "gates.json").read_text())["decisions"]
    assert [record["stage"] for record in records] == [
        "sft",
        "reward",
        "ppo",
        "evaluate",
        "promote",
    ]

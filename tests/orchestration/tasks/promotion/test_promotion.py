"""Promotion and rollback: what moves, and what happens to aliases that differ from the ledger."""

import time
from pathlib import Path

import mlflow
import pytest
from promotion_checks import champions, files, refused, replaced

from rlhf_core.digest import digest_path
from rlhf_core.errors import PromotionRefused, RLHFError
from tasks.promotion import aliases, announce
from tasks.promotion.aliases import RegistryAliases
from tasks.promotion.eligibility import ContestLost
from tasks.promotion.promotion import PromotionRequest, history, promote, rollback

# what moves


def test_a_winner_becomes_champion_with_its_reward_model_and_the_old_one_previous(registry):
    assert champions(registry) == ("1", None, "1", None)
    result = promote(registry, PromotionRequest(version="3", reason="better"))
    assert (
        result.promoted
        and result.replaced == "1"
        and "it wins 70.0% of 250 decided prompts by eval/win_rate_vs_champion (lower 95.63% bound"
        in result.reason
        and "against version 1, contest 1 on these held-out prompts" in result.reason
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


def test_policies_are_rolled_back_to_across_the_promotion_of_a_reward_model_alone(registry):
    """Policy 1 was evaluated with reward model 1, and served beside reward model 2."""
    promote(registry, PromotionRequest(kind="reward", version="2"))
    promote(registry, PromotionRequest(version="2"))
    promote(registry, PromotionRequest(version="4"))
    assert rollback(registry, PromotionRequest()).version == "2"
    assert champions(registry) == ("2", "1", "1", "2")
    assert rollback(registry, PromotionRequest()).version == "1"
    assert champions(registry) == ("1", None, "2", "1")
    assert rollback(registry, PromotionRequest(kind="reward")).version == "1"
    assert champions(registry) == ("1", None, "1", None) and history(registry).problems == []


def test_a_reward_model_is_rolled_back_alone_after_a_policy_brought_the_one_before(registry):
    promote(registry, PromotionRequest(version="2"))
    promote(registry, PromotionRequest(kind="reward", version="2"))
    assert champions(registry) == ("2", "1", "2", "1")
    assert rollback(registry, PromotionRequest(kind="reward")).version == "1"
    assert champions(registry) == ("2", "1", "1", None)
    promote(registry, PromotionRequest(kind="reward", version="2"))
    assert rollback(registry, PromotionRequest()).version == "1"
    assert champions(registry) == ("1", None, "1", None)


@pytest.mark.parametrize("records", ["of another reward model", "without ppo"])
def test_a_rollback_skips_a_champion_whose_records_do_not_pass_any_more(registrar, records):
    registry, digest = registrar.registry, registrar.digests["policy", "2"]
    promote(registry, PromotionRequest(version="2"))
    promote(registry, PromotionRequest(version="4"))
    found = registrar.records("policy", digest, "2")
    if records == "without ppo":
        found = [each for each in registrar.records("policy", digest) if each.stage != "ppo"]
    registrar.add("policy", 2, found, reward_version="2")  # the same version, renewed
    assert rollback(registry, PromotionRequest()).version == "1"
    assert (
        "Skipped version 2: version 2 of tiny-policy may not be champion: "
        in registry.ledger.entries()[-1].outcome_reason
    )


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


# aliases without an entry in the ledger


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
            r"without an entry in the ledger: policy@champion is version 2, the ledger says version"
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


def test_a_reward_model_that_begins_the_ledger_leaves_the_policy_that_is_champion(registry):
    registry.client.delete_registered_model("tiny-ledger")
    adopted = PromotionRequest(kind="reward", version="2", adopt=True, reason="it begins here")
    assert promote(registry, adopted).promoted
    assert champions(registry) == ("1", None, "2", None) and history(registry).problems == []
    promote(registry, PromotionRequest(version="2"))
    assert rollback(registry, PromotionRequest()).version == "1"
    assert champions(registry) == ("1", None, "2", None)


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
    gap, chain = history(registry).problems
    assert gap == "Entries 2 were deleted."
    assert chain.startswith("One of entries 1 to 2 was altered, added or deleted")


# no server


def test_a_server_that_is_not_there_is_one_error_within_seconds(registry, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    began = time.monotonic()
    with pytest.raises(
        RLHFError, match=r"http://127.0.0.1:9 does not answer .*Nothing was changed"
    ):
        aliases.open_registry("tiny")
    assert time.monotonic() - began < 20

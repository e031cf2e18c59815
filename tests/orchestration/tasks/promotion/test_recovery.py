"""The next command completes or undoes a promotion that was killed after the alias had moved."""

import pytest
from promotion_checks import champions, files, replaced

from tasks.promotion import transaction
from tasks.promotion.aliases import RegistryAliases
from tasks.promotion.promotion import PromotionRequest, history, promote, rollback

TO_VERSION_2 = PromotionRequest(version="2")


def killed_after_the_switch(
    registry: RegistryAliases,
    request: PromotionRequest = TO_VERSION_2,
    left: tuple[str | None, ...] = ("2", None, "1", None),
) -> None:
    """Leave what a promotion leaves when it is killed after the alias has moved."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(transaction, "smoke_test_alias", lambda *args: 1 / 0)
        patch.setattr(transaction, "_roll_back", lambda *args: None)
        with pytest.raises(ZeroDivisionError):
            promote(registry, request)
    assert champions(registry) == left and not registry.ledger.entries()[-1].outcome


def test_a_killed_promotion_of_a_reward_model_alone_is_completed(registry):
    to_reward_2 = PromotionRequest(kind="reward", version="2")
    killed_after_the_switch(registry, to_reward_2, ("1", None, "2", None))
    with replaced(files(registry, "1") / "artifacts/model/model.safetensors", b"x"):
        # the policy does not move, as in the promotion itself
        assert history(registry).problems == ["Entry 2 was completed."]
    assert champions(registry) == ("1", None, "2", "1")
    assert [entry.outcome for entry in registry.ledger.entries()] == ["done"] * 3


def test_a_killed_promotion_of_a_reward_model_with_other_bytes_is_undone(registry):
    to_reward_2 = PromotionRequest(kind="reward", version="2")
    killed_after_the_switch(registry, to_reward_2, ("1", None, "2", None))
    with replaced(files(registry, "2", "reward") / "artifacts/model/model.safetensors", b"x"):
        (problem,) = history(registry).problems
    assert problem.startswith("Entry 2 was undone: version 2 of tiny-reward may not be champion")
    assert champions(registry) == ("1", None, "1", None)


def test_a_killed_rollback_across_a_reward_model_promoted_alone_is_completed(registry, monkeypatch):
    promote(registry, PromotionRequest(kind="reward", version="2"))
    promote(registry, PromotionRequest(version="2"))
    with monkeypatch.context() as patch:
        patch.setattr(transaction, "smoke_test_alias", lambda *args: 1 / 0)
        patch.setattr(transaction, "_roll_back", lambda *args: None)
        with pytest.raises(ZeroDivisionError):
            rollback(registry, PromotionRequest())
    assert history(registry).problems == ["Entry 4 was completed."]
    assert champions(registry) == ("1", None, "2", "1")


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

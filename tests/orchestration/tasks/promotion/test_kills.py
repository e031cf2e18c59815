"""kill -9 after every write of a promotion, a rollback and a recovery.

The next command leaves nothing half done.
"""

import shutil
from pathlib import Path

import pytest

from tasks.promotion.aliases import RegistryAliases, champion_history, drift
from tasks.promotion.promotion import PromotionRequest, history, promote
from tasks.records.workspace import Workspace
from tasks.tracking.client import connect

pytestmark = pytest.mark.slow


def at(folder: Path) -> RegistryAliases:
    return RegistryAliases(connect(f"sqlite:///{folder}/mlflow.db"), Workspace(folder), "tiny")


def copied(registry: RegistryAliases, folder: Path) -> RegistryAliases:
    """Copy the registry into a store of its own."""
    folder.mkdir()
    shutil.copy(registry.workspace.home / "mlflow.db", folder / "mlflow.db")
    return at(folder)


def require_whole(registry: RegistryAliases) -> str:
    """Check that all has ended and the aliases agree with the ledger; return the champion."""
    entries = registry.ledger.entries()
    assert all(entry.outcome for entry in entries), entries
    champion = champion_history(entries)[-1]
    assert drift(champion, registry.aliases()) is None
    return champion.policy.version


def kill_everywhere(
    promoters, registry: RegistryAliases, folder: Path, job: dict, next_job: dict
) -> list[str]:
    """Kill `job` after 0, 1, 2, ... writes until it survives; run `next_job` after each kill.

    Return the champions after each.
    """
    champions, left_at = [], []
    for count in range(100):
        here = copied(registry, folder / str(count))
        (result,) = promoters.run(here, job | {"kill_after": count})
        if result["code"] == 0:
            assert result["promoted"], result
            # as if it never or fully happened
            assert all(aliases in (registry.aliases(), here.aliases()) for aliases in left_at)
            return champions
        assert result["code"] == -9
        (after,) = promoters.run(here, next_job)
        assert after["code"] == 0 and "error" not in after, (count, after)
        champions.append(require_whole(here))
        left_at.append(here.aliases())
        left = [entry.outcome for entry in here.ledger.entries() if entry.action == job["action"]]
        assert left[1:] in ([], ["done"], ["undone"]), left  # the first one made the registry
    raise AssertionError("the job never survived")


def test_a_killed_promotion_is_completed_or_undone_by_the_next_command(
    promoters, registry, tmp_path
):
    job = {"action": "promote", "version": "3", "reason": "better"}
    champions = kill_everywhere(promoters, registry, tmp_path, job, {"action": "history"})
    switched = champions.index("3")
    assert champions == ["1"] * switched + ["3"] * (len(champions) - switched)
    # it was killed often enough on either side
    assert switched >= 5 and len(champions) - switched >= 5


def test_a_killed_rollback_is_completed_or_undone_by_the_next_command(
    promoters, registry, tmp_path
):
    promote(registry, PromotionRequest(version="2"))
    champions = kill_everywhere(
        promoters, registry, tmp_path, {"action": "rollback"}, {"action": "history"}
    )
    switched = champions.index("1")
    assert champions == ["2"] * switched + ["1"] * (
        len(champions) - switched
    ) and 0 < switched < len(champions)


def test_a_killed_promotion_of_a_reward_model_alone_is_completed_or_undone(
    promoters, registry, tmp_path
):
    job = {"action": "promote", "kind": "reward", "version": "2"}
    assert set(kill_everywhere(promoters, registry, tmp_path, job, {"action": "history"})) == {"1"}
    rewards = [
        at(tmp_path / str(count)).aliases()["reward@champion"]
        for count in range(len(list(tmp_path.glob("[0-9]*"))) - 1)
    ]
    switched = rewards.index("2")
    assert rewards == ["1"] * switched + ["2"] * (len(rewards) - switched)
    assert switched >= 5 and len(rewards) - switched >= 4


@pytest.mark.parametrize("moved", [False, True])
def test_a_killed_recovery_is_recovered_itself(promoters, registry, tmp_path, moved):
    counts = range(7 if moved else 5, 100)  # before that there is no plan yet
    first = next(
        count
        for count in counts
        if killed_with(promoters, registry, tmp_path / str(count), count, moved)
    )
    wreck = at(tmp_path / str(first))
    for count in range(100):
        here = copied(wreck, tmp_path / f"again-{count}")
        (result,) = promoters.run(here, {"action": "history", "kill_after": count})
        if result["code"] == 0:
            return
        (after,) = promoters.run(here, {"action": "history"})
        assert after["code"] == 0 and "error" not in after
        assert require_whole(here) == ("2" if moved else "1")
        assert {entry.outcome for entry in here.ledger.entries() if entry.action == "recover"} <= {
            "done",
            "undone",
        }
    raise AssertionError("the recovery never survived")


def killed_with(
    promoters, registry: RegistryAliases, folder: Path, count: int, moved: bool
) -> bool:
    """Check that a kill after `count` writes leaves a plan behind.

    moved: the alias of the policy must have moved, or must not.
    """
    here = copied(registry, folder)
    promoters.run(here, {"action": "promote", "version": "2", "kill_after": count})
    last = here.ledger.entries()[-1]
    return (
        last.plan is not None
        and not last.outcome
        and (here.aliases()["policy@champion"] == "2") == moved
    )


def test_the_next_promotion_ends_what_was_left_and_then_goes_its_own_way(promoters, registry):
    for count in (3, 12):
        (killed,) = promoters.run(
            registry, {"action": "promote", "version": "2", "kill_after": count}
        )
        assert killed["code"] == -9
    (done,) = promoters.run(
        registry, {"action": "promote", "version": "3", "contest_override": "to see what happens"}
    )
    assert done["promoted"] and require_whole(registry) == "3"
    assert [entry.action for entry in history(registry).entries].count("recover") == 2

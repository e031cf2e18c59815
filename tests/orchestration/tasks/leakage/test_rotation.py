"""The contests on held-out prompts, and the search that finds out if other ones are fresh."""

import pytest
from held_out import make_champion, record_contest, register_champion
from made_models import MadeModels, rows

from rlhf_core.contest.spending import level
from rlhf_core.data.splits import save_split
from rlhf_core.digest import digest_json
from rlhf_core.rundir import Artifact
from tasks.leakage.rotation import HeldoutPrompts, freshness, use_of
from tasks.promotion.aliases import RegistryAliases
from tasks.records.workspace import Workspace
from tasks.tracking.client import connect

PRESENT = [f"present {i}" for i in range(60)]
NEXT = [f"next {i}" for i in range(60)]


@pytest.fixture
def registry(home):
    workspace = Workspace(home)
    return RegistryAliases(connect(workspace.tracking_uri), workspace, "tiny")


@pytest.fixture
def split(tmp_path):
    """Write a split with these prompts."""

    def write(*prompts: str) -> Artifact:
        path = tmp_path / f"split-{digest_json(prompts)[:12]}.jsonl"
        save_split(path, rows(*prompts))
        return Artifact.of(path)

    return write


def champion_trained_on(registry, *prompts: str) -> None:
    made = MadeModels(registry.workspace.home)
    split = made.stage("validate", "theirs", {}, {"prompts_train": rows(*prompts)})["prompts_train"]
    make_champion(registry.client, registry.workspace, split)


def prompts_of(split: Artifact) -> HeldoutPrompts:
    return HeldoutPrompts.of(split.path)


def test_contests_on_the_same_prompts_are_counted_and_the_next_one_has_a_smaller_level(
    registry, split
):
    present = split(*PRESENT)
    unused = use_of(registry.ledger.entries(), prompts_of(present), 0.95)
    assert (unused.contests, unused.spent, unused.prompts) == (0, 0.0, 60)
    assert unused.next_level == level(1, 0.95)
    record_contest(registry.client, 1, present)
    record_contest(registry.client, 2, split(*PRESENT[20:]))  # without 20 that had leaked
    used = use_of(registry.ledger.entries(), prompts_of(present), 0.95)
    assert used.contests == 2 and used.next_level == level(3, 0.95)
    fresh = use_of(registry.ledger.entries(), prompts_of(split(*NEXT)), 0.95)
    assert fresh.contests == 0


def test_prompts_that_neither_contest_nor_champion_has_seen_are_fresh(registry, split):
    present = split(*PRESENT)
    champion_trained_on(registry, "another one", *PRESENT[:5])
    record_contest(registry.client, 1, present)
    found = freshness(registry, prompts_of(present), prompts_of(split(*NEXT)), 0.95)
    assert found.is_fresh and not found.trained and not found.unknown


def test_training_prompts_of_the_champion_are_not_fresh(registry, split):
    """The training prompts of the present champion, which another split seed would hold out."""
    champion_trained_on(registry, "another one", *NEXT[:54])
    found = freshness(registry, prompts_of(split(*PRESENT)), prompts_of(split(*NEXT)), 0.95)
    assert not found.is_fresh and found.trained == {"tiny-policy 1": 54}


def test_prompts_that_a_contest_has_looked_at_or_that_are_held_out_now_are_not_fresh(
    registry, split
):
    record_contest(registry.client, 1, split(*NEXT))
    found = freshness(registry, prompts_of(split(*PRESENT)), prompts_of(split(*NEXT)), 0.95)
    assert not found.is_fresh and found.use.contests == 1 and found.shared == 0
    both = split(*PRESENT[:10], *[f"other {i}" for i in range(50)])
    found = freshness(registry, prompts_of(split(*PRESENT)), prompts_of(both), 0.95)
    assert not found.is_fresh and found.shared == 10


def test_a_champion_of_unknown_data_is_said_to_be_unknown(registry, split):
    register_champion(registry.client, "f" * 64)
    found = freshness(registry, prompts_of(split(*PRESENT)), prompts_of(split(*NEXT)), 0.95)
    assert found.is_fresh
    assert found.unknown == {"tiny-policy 1": "no run here or in MLflow made ffffffffffff"}

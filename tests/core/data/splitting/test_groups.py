"""Groups of prompts that stay on one side of a split by hash."""

import random
from dataclasses import replace

import pytest
from source_tables import data, dialogue, entry, table, user

from rlhf_core.data.rules import assign_splits
from rlhf_core.data.splits import prompt_key, root_key
from rlhf_core.data.splitting.groups import group_keys
from rlhf_core.errors import BadInput

LONG = " ".join(f"word{i}" for i in range(40))


def dialogues(n=400):
    """Each conversation as a prompt of one and of two user turns."""
    for i in range(n):
        yield dialogue(f"question {i}")
        yield dialogue(f"question {i}", f"answer {i}", f"and then {i}")


def shared_roots(split_by):
    """The share of the held-out dialogues whose first user turn is in a training row."""
    rows = [entry(i, p, response="r") for i, p in enumerate(dialogues())]
    options = data(split_by=split_by, heldout_fraction=0.1)
    split = assign_splits({"demonstrations": table("demonstrations", rows)}, options)
    sides = {"train": set(), "heldout": []}
    for row in split["demonstrations"].entries:
        prompt = row.record["prompt"]
        if row.is_in("train"):
            sides["train"].add(root_key(prompt))
        elif len(prompt) > 1:
            sides["heldout"].append(root_key(prompt))
    assert len(sides["heldout"]) > 20
    return sum(root in sides["train"] for root in sides["heldout"]) / len(sides["heldout"])


def test_held_out_dialogues_have_their_root_in_training_by_prompt_and_never_by_root():
    assert shared_roots("prompt") > 0.8
    assert shared_roots("root") == shared_roots("cluster") == 0.0
    assert data().split_by == "root"


def sides(prompts, **options):
    rows = [entry(i, p) for i, p in enumerate(prompts)]
    split = assign_splits({"prompts": table("prompts", rows)}, data(**options))["prompts"]
    return [row.split for row in split.entries]


def test_prompts_of_one_user_turn_are_where_they_were_with_any_way_to_split():
    prompts = [f"prompt number {i}" for i in range(300)]
    by = {how: sides(prompts, split_by=how) for how in ("prompt", "root", "cluster")}
    assert by["prompt"] == by["root"] == by["cluster"]


def test_near_duplicates_are_on_one_side_by_cluster():
    rng = random.Random(1)
    prompts = [f"{rng.random()} {LONG.replace('word', f'f{i // 3}w')}" for i in range(300)]
    for how, together in (("root", False), ("cluster", True)):
        found = sides(prompts, split_by=how, heldout_fraction=0.3)
        assert all(len(set(found[i : i + 3])) == 1 for i in range(0, 300, 3)) == together
        assert 0.15 < found.count("prompts_heldout") / 300 < 0.45


def test_a_system_message_makes_no_other_root_and_no_near_duplicate():
    system = [{"role": "system", "content": LONG}]
    one, other = [*system, *user("first question")], [*system, *user("second question")]
    keys = group_keys([entry(1, one), entry(2, other), entry(3, "first question")], data())
    assert len(keys) == 3 and len(set(keys.values())) == 2
    clusters = group_keys([entry(1, one), entry(2, other)], data(split_by="cluster"))
    assert len(set(clusters.values())) == 2


def test_equal_prompts_that_truncation_made_of_two_roots_are_one_group():
    rows = [entry(1, "the end"), entry(2, "the end"), entry(3, "a"), entry(4, "b")]
    rows = [*rows[2:], *(replaced(row, root) for row, root in zip(rows, "ab", strict=False))]
    keys = group_keys(rows, data())
    assert len(set(keys.values())) == 1


def replaced(row, root):
    return replace(row, root=prompt_key(user(root)))


@pytest.mark.parametrize(
    ("split_by", "prompts", "message"),
    [
        ("root", [dialogue("hi", "hello", f"q {i}") for i in range(30)], "same user turn"),
        ("cluster", [f"{LONG} {i}" for i in range(30)], "near duplicates of each other"),
    ],
)
def test_a_group_of_most_prompts_is_refused_with_what_to_set(split_by, prompts, message):
    with pytest.raises(BadInput, match=f"30 of 30 prompts .*{message}.* Set|{message}.* Raise"):
        sides(prompts, split_by=split_by)
    assert len(sides(prompts, split_by="prompt")) == 30

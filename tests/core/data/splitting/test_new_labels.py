"""Later labels: their held-out prompts, and pairs that are labelled again."""

from source_tables import data, dialogue, entry, pair, table

from rlhf_core.config import Rules
from rlhf_core.data.rules import assign_splits
from rlhf_core.data.splitting.leaks import quarantine_leaks
from rlhf_core.data.splitting.new_labels import quarantine_heldout_with_new, quarantine_relabelled

PROMPTS = [f"prompt {i}" for i in range(200)]


def new(number: int, prompts: list[str], *, exchanged: bool = False):
    answers = ("y", "x") if exchanged else ("x", "y")
    rows = [pair(i, prompt, *answers) for i, prompt in enumerate(prompts, start=1)]
    return table(f"new_comparisons_{number}", rows)


def splits(tables, name):
    return {e.prompt_key: e.split for e in tables[name].kept}


def sides_of(prompts: list[str], **values):
    """The split of each prompt, as the only file of new comparisons."""
    name = "new_comparisons_1"
    return splits(assign_splits({name: new(1, prompts)}, data(**values)), name)


def trained_prompts(checked) -> list[str]:
    return [e.canonical["prompt"][0]["content"] for e in checked.kept if e.is_in("train")]


def test_a_share_of_new_prompts_is_held_out_the_same_in_every_round_and_file():
    sides = sides_of(PROMPTS)
    later = {"new_comparisons_1": new(1, PROMPTS[:50]), "new_comparisons_2": new(2, PROMPTS[25:])}
    second = assign_splits(later, data())
    assert set(sides.values()) == {"new_comparisons_train", "new_comparisons_heldout"}
    held_out = list(sides.values()).count("new_comparisons_heldout")
    assert 10 <= held_out <= 32  # of 200, a tenth
    for name in later:
        assert splits(second, name).items() <= sides.items()
    assert sides_of(PROMPTS, split_seed=2) != sides


def test_training_prompts_of_a_split_by_hash_may_be_held_out_with_new_labels():
    """Labelled are the policy's replies to training prompts: no other hash would hold any out."""
    old = table("comparisons", [pair(i, p, "a", "b") for i, p in enumerate(PROMPTS, start=1)])
    found = assign_splits({"comparisons": old}, data())
    trained = trained_prompts(found["comparisons"])
    both = assign_splits({"comparisons": old, "new_comparisons_1": new(1, trained)}, data())
    assert splits(both, "comparisons") == splits(found, "comparisons")
    assert "new_comparisons_heldout" in splits(both, "new_comparisons_1").values()


def test_a_prompt_of_a_later_fold_stays_in_reserve():
    found = sides_of(PROMPTS, heldout_folds=3, heldout_fraction=0.3)
    assert 90 <= list(found.values()).count("new_comparisons_reserve") <= 150  # two folds of 0.3


def test_labels_on_prompts_that_are_held_out_with_new_ones_leave_training():
    sides = sides_of(PROMPTS)
    rows = [pair(i, p, "a", "b") for i, p in enumerate(PROMPTS, start=1)]
    tables = {
        "demonstrations": table(
            "demonstrations", [entry(i, p, response="r") for i, p in enumerate(PROMPTS, start=1)]
        ),
        "demonstrations_heldout": table("demonstrations_heldout", [entry(1, "d", response="r")]),
        "comparisons": table("comparisons", rows),
        "comparisons_heldout": table("comparisons_heldout", [pair(1, "c", "a", "b")]),
        "new_comparisons_1": new(1, PROMPTS),
    }
    found = quarantine_heldout_with_new(assign_splits(tables, data()), data())
    left_out = {e.prompt_key for e in found["comparisons"].broken("heldout_with_new")}
    assert left_out == {key for key, side in sides.items() if side.endswith("heldout")}
    assert not found["demonstrations"].broken("heldout_with_new")
    assert not found["new_comparisons_1"].broken("heldout_with_new")
    first = found["comparisons"].broken("heldout_with_new")[0]
    assert first.reason == f"the prompt is held out with new_comparisons_1 line {first.line}"


def test_old_rows_of_a_conversation_that_is_held_out_with_new_labels_leave_training():
    """Bug: they stayed, because only the whole prompt was compared."""
    old = [pair(i, dialogue(p, "a", "more?"), "x", "y") for i, p in enumerate(PROMPTS, start=1)]
    tables = {
        "comparisons": table("comparisons", old),
        "comparisons_heldout": table("comparisons_heldout", [pair(1, "c", "a", "b")]),
        "new_comparisons_1": new(1, PROMPTS),
    }
    by_root, by_prompt = data(split_by="root"), data(split_by="prompt")
    found = quarantine_heldout_with_new(assign_splits(tables, by_root), by_root)
    heldout = [e.line for e in found["new_comparisons_1"].kept if e.is_in("heldout")]
    left_out = found["comparisons"].broken("heldout_with_new")
    assert [e.line for e in left_out] == heldout and heldout
    where = f"new_comparisons_1 line {heldout[0]}"
    assert left_out[0].reason == f"a prompt of its root is held out with {where}"
    found = quarantine_heldout_with_new(assign_splits(tables, by_prompt), by_prompt)
    assert not found["comparisons"].broken("heldout_with_new")


def test_a_prompt_keeps_its_side_by_cluster_and_its_near_duplicates_give_way():
    """Bug: a later round's prompts changed the key of a cluster, and with it its side."""
    clustered = data(split_by="cluster", near_duplicate_similarity=0.6)
    text = "please write a short letter to the mayor of our town about the number {}"
    first = [text.format(i) for i in range(1, 31)]
    tables = {"new_comparisons_1": new(1, [*first[:12], *PROMPTS])}
    later = tables | {"new_comparisons_2": new(2, first)}
    sides, more = (assign_splits(each, clustered) for each in (tables, later))
    kept = splits(sides, "new_comparisons_1")
    assert splits(more, "new_comparisons_1") == kept
    assert splits(more, "new_comparisons_2").items() >= {
        (key, side) for key, side in kept.items() if key in splits(more, "new_comparisons_2")
    }
    found = quarantine_heldout_with_new(more, clustered)["new_comparisons_2"]
    held_out = [e for e in found.kept if e.is_in("heldout")]
    assert held_out and len(held_out) + len(found.broken("heldout_with_new")) == len(first)


def test_a_new_pair_on_a_prompt_of_the_old_held_out_set_is_a_leak_on_either_side():
    tables = {
        "comparisons": table("comparisons", [pair(1, "c", "a", "b")]),
        "comparisons_heldout": table(
            "comparisons_heldout", [pair(i, p, "a", "b") for i, p in enumerate(PROMPTS, start=1)]
        ),
        "new_comparisons_1": new(1, ["fresh", *PROMPTS]),
    }
    found = quarantine_leaks(assign_splits(tables, data()), Rules())["new_comparisons_1"]
    assert [e.line for e in found.kept] == [1]
    assert found.entries[1].reason == "the prompt is held out in comparisons_heldout line 1"


def test_the_last_label_of_a_pair_counts_whichever_way_it_is():
    found = assign_splits({"new_comparisons_1": new(1, PROMPTS)}, data())
    a, b, c = trained_prompts(found["new_comparisons_1"])[:3]
    old = [pair(1, a, "x", "y"), pair(2, b, "x", "y"), pair(3, c, "x", "y"), pair(4, a, "p", "q")]
    tables = {
        "comparisons": table("comparisons", old),
        "comparisons_heldout": table("comparisons_heldout", [pair(1, "h", "x", "y")]),
        "new_comparisons_1": new(1, [a, b], exchanged=True),
        "new_comparisons_2": new(2, [b]),
    }
    found = quarantine_relabelled(assign_splits(tables, data()))
    rules = {name: [e.rule for e in found[name].entries] for name in found}
    assert rules["comparisons"] == ["relabelled", "relabelled", None, None]
    assert rules["new_comparisons_1"] == [None, "relabelled"]
    assert rules["new_comparisons_2"] == [None]
    reasons = [e.reason for e in found["comparisons"].entries[:2]]
    assert reasons == [
        "labelled again in new_comparisons_1 line 1, the other way",
        "labelled again in new_comparisons_2 line 1, the same way",
    ]

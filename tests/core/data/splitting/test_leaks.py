"""Held-out prompts among training rows: the same prompt, and near duplicates."""

from source_tables import data, dialogue, entry, pair, table

from rlhf_core.config import Rules
from rlhf_core.data.rules import assign_splits, records_of
from rlhf_core.data.splitting.leaks import note_near_duplicates, quarantine_leaks

LONG = " ".join(f"word{i}" for i in range(30))


def verdicts(checked):
    return {e.line: e.rule for e in checked.entries}


def test_training_rows_with_a_held_out_prompt_are_quarantined_across_sources():
    tables = {
        "demonstrations": table(
            "demonstrations", [entry(i, p, response="r") for i, p in enumerate("abz", start=1)]
        ),
        "demonstrations_heldout": table("demonstrations_heldout", [entry(1, "a", response="q")]),
        "comparisons": table(
            "comparisons",
            [pair(1, "a", "x", "y"), pair(2, " c\n", "x", "y"), pair(3, "d", "x", "y")],
        ),
        "comparisons_heldout": table(
            "comparisons_heldout", [pair(1, "b", "x", "y"), pair(2, "c", "x", "y")]
        ),
        "prompts": table("prompts", [entry(1, "d"), entry(2, "c"), entry(3, "e")]),
        "prompts_heldout": table("prompts_heldout", [entry(1, "d")]),
    }
    found = quarantine_leaks(assign_splits(tables, data()), Rules())
    assert verdicts(found["demonstrations"]) == {1: "leakage", 2: "leakage", 3: None}
    assert verdicts(found["comparisons"]) == {1: None, 2: "leakage", 3: "leakage"}
    assert verdicts(found["prompts"]) == {1: "leakage", 2: "leakage", 3: None}
    assert (
        found["demonstrations"].entries[1].reason
        == "the prompt is held out in comparisons_heldout line 1"
    )
    assert all(
        not e.rule for name in found if name.endswith("heldout") for e in found[name].entries
    )
    assert [r["prompt"][0]["content"] for r in records_of(found, "comparisons_train")] == ["a"]


def given(train, heldout):
    """A file of demonstrations beside a held-out file."""
    names = {"demonstrations": train, "demonstrations_heldout": heldout}
    tables = {
        name: table(name, [entry(i, p, response="r") for i, p in enumerate(prompts, start=1)])
        for name, prompts in names.items()
    }
    return assign_splits(tables, data())


def test_a_training_prompt_that_nearly_repeats_a_held_out_one_is_kept_and_noted():
    tables = given([f"{LONG} indeed", "quite another one", LONG.upper() + "!"], ["short", LONG])
    noted, examples = note_near_duplicates(tables, data())
    assert verdicts(noted["demonstrations"]) == {1: None, 2: None, 3: None}
    assert [e.line for e in noted["demonstrations"].broken("near_duplicates")] == [1, 3]
    assert [(e.line, e.heldout_source, e.heldout_line) for e in examples] == [
        (1, "demonstrations_heldout", 2),
        (3, "demonstrations_heldout", 2),
    ]
    assert examples[1].similarity == 1.0 and 0.8 < examples[0].similarity < 1.0
    reason = noted["demonstrations"].entries[2].notes["near_duplicates"]
    assert "is nearly 'word0 word1" in reason and "(similarity 1.00)" in reason


def test_a_dialogue_with_the_root_of_a_held_out_one_is_noted():
    heldout = dialogue("how do I bake bread", "with flour", "and then")
    train = [dialogue("how do I bake bread", "with love", "why"), dialogue("hi", "hello", "then")]
    noted, _ = note_near_duplicates(given(train, [heldout]), data())
    assert [e.line for e in noted["demonstrations"].broken("near_duplicates")] == [1]


def test_near_duplicates_count_where_the_trained_model_is_measured_and_not_when_off():
    rows = {"prompts": [entry(1, LONG)], "demonstrations_heldout": [entry(1, LONG, response="r")]}
    tables = assign_splits({name: table(name, e) for name, e in rows.items()}, data())
    tables["prompts"] = tables["prompts"].assigned(lambda _: "prompts_train")
    assert note_near_duplicates(tables, data())[1] == []  # PPO's prompts may be of demonstrations
    near = given([LONG + " indeed"], [LONG])
    assert note_near_duplicates(near, data(rules={"near_duplicates": "off"})) == (near, [])

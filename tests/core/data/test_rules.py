"""Rules over rows, and splits by prompt."""

import pytest
from source_tables import data, entry, pair, table, user
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from rlhf_core.config import Rules
from rlhf_core.data.chat_template import ensure_chat_template
from rlhf_core.data.rules import apply_row_rules, assign_splits
from rlhf_core.data.splits import fold_of, load_split, prompt_key, save_split, unique_prompts
from rlhf_core.data.splitting.leaks import quarantine_leaks
from rlhf_core.errors import BadInput
from rlhf_core.validate import assert_nothing_vanished, make_splits


@pytest.fixture
def tokenizer():
    words = ["<eos>", "<unk>", "<|user|>", "<|assistant|>", *(f"w{i}" for i in range(40))]
    core = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made = PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<eos>", unk_token="<unk>")
    ensure_chat_template(made)
    return made


def verdicts(checked):
    return {e.line: e.rule for e in checked.entries}


# ---- single rows


def test_each_bad_pair_is_quarantined_under_its_rule_and_the_good_one_is_kept(tokenizer):
    rows = [
        pair(1, "w1", "w2", "w3"),
        pair(2, "w1", "w2 ", "w2"),
        pair(3, "w1", "w2", "w3"),
        pair(4, "w5", "w6", "w7"),
        pair(5, "w5", "w7", "w6"),
        pair(6, "w1 " * 9, "w2", "w3"),
        pair(7, "w1", "w2", "w3 " * 4),
        pair(8, "w1", "w2", "w3 " * 3),
    ]
    checked = apply_row_rules(
        table("comparisons", rows), data(max_prompt_tokens=10, max_response_tokens=4), tokenizer
    )
    assert verdicts(checked) == {
        1: None,
        2: "chosen_equals_rejected",
        3: "duplicates",
        4: "contradictions",
        5: "contradictions",
        6: "length",
        7: "length",
        8: None,
    }
    reasons = {e.line: e.reason for e in checked.entries}
    assert reasons[3] == "the same texts as line 1"
    assert reasons[4] == "the same pair as line 5, labelled the other way"
    # 9 words and two role tags
    assert reasons[6] == "prompt has 11 tokens; max_prompt_tokens is 10"
    assert reasons[7] == "rejected has 5 tokens; max_response_tokens is 4"  # 4 words and EOS


def test_a_rule_that_is_off_quarantines_nothing(tokenizer):
    off = Rules(chosen_equals_rejected="off", duplicates="off", contradictions="off", length="off")
    rows = [
        pair(1, "w1", "w2", "w2"),
        pair(2, "w1", "w2", "w2"),
        pair(3, "w1 " * 99, "w2", "w3"),
        pair(4, "w1 " * 99, "w3", "w2"),
    ]
    checked = apply_row_rules(
        table("comparisons", rows), data(rules=off, max_prompt_tokens=10), tokenizer
    )
    assert set(verdicts(checked).values()) == {None}


def test_a_prompt_that_the_chat_template_refuses_breaks_the_schema(tokenizer):
    tokenizer.chat_template = (
        "{% if messages[0]['content'] == 'w2' %}{{ raise_exception('no w2') }}{% endif %}<|user|>"
    )
    checked = apply_row_rules(table("prompts", [entry(1, "w1"), entry(2, "w2")]), data(), tokenizer)
    assert verdicts(checked) == {1: None, 2: "schema"}
    assert "no w2" in checked.entries[1].reason


# ---- splits


def test_adding_rows_moves_no_prompt_to_the_other_side():
    def sides(n):
        tables = {
            "demonstrations": table(
                "demonstrations", [entry(i, f"p{i}", response="r") for i in range(n)]
            )
        }
        split = assign_splits(tables, data(heldout_fraction=0.3))["demonstrations"]
        return {e.record["prompt"][0]["content"]: e.split for e in split.entries}

    small, large = sides(100), sides(300)
    assert small == {prompt: side for prompt, side in large.items() if prompt in small}


def test_the_held_out_share_is_near_the_fraction_and_depends_on_the_seed():
    sides = {
        seed: [
            fold_of(prompt_key(user(f"p{i}")), seed=seed, fraction=0.2) == 1 for i in range(4000)
        ]
        for seed in (1, 2)
    }
    # four standard errors
    assert all(abs(sum(side) / 4000 - 0.2) < 0.025 for side in sides.values())
    assert sides[1] != sides[2]


def test_a_larger_fraction_only_adds_held_out_prompts():
    small, large = (
        {i for i in range(500) if fold_of(prompt_key(user(f"p{i}")), seed=1, fraction=f)}
        for f in (0.1, 0.3)
    )
    assert small < large


def test_one_prompt_is_on_one_side_in_every_source_whatever_its_white_space():
    for i in range(200):
        assert fold_of(prompt_key(user(f"a p{i}")), seed=3, fraction=0.5) == fold_of(
            prompt_key(user(f" a\n p{i} ")), seed=3, fraction=0.5
        )


def hash_split(n=200):
    tables = {
        "demonstrations": table(
            "demonstrations", [entry(i, f"p{i}", response="r") for i in range(n)]
        ),
        "comparisons": table("comparisons", [pair(i, f"p{i}", "a", "b") for i in range(n)]),
        "prompts": table("prompts", [entry(i, f"p{i}") for i in range(2 * n)]),
    }
    return assign_splits(tables, data(heldout_fraction=0.3))


def test_splitting_by_hash_leaks_nothing_between_the_sources():
    tables = quarantine_leaks(hash_split(), Rules())
    assert not [e for t in tables.values() for e in t.entries if e.rule]
    splits = make_splits(tables)
    heldout = {
        r["prompt"][0]["content"]
        for name in splits
        if name.endswith("heldout")
        for r in splits[name]
    }
    train = {
        r["prompt"][0]["content"] for name in splits if name.endswith("train") for r in splits[name]
    }
    assert not heldout & train and heldout | train == {f"p{i}" for i in range(400)}


def folded(fold: int, *, folds: int = 3, **options):
    """Split three sources by hash, of which folds of 0.2 each are set aside."""
    rows = [entry(i, f"p{i}", response="r") for i in range(300)]
    tables = {
        "demonstrations": table("demonstrations", rows),
        "comparisons": table("comparisons", [pair(i, f"p{i}", "a", "b") for i in range(300)]),
    }
    tables |= {name: table(name, rows) for name in options.pop("more", ())}
    given = {"heldout_fraction": 0.2, "heldout_folds": folds, "heldout_fold": fold}
    return assign_splits(tables, data(**given, **options))


def prompts_by_split(tables) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for one in tables.values():
        for row in one.kept:
            found.setdefault(row.split, set()).add(row.canonical["prompt"][0]["content"])
    return found


def test_folds_are_disjoint_and_each_is_in_reserve_until_its_turn():
    first, second, third = (prompts_by_split(folded(fold)) for fold in (1, 2, 3))
    heldout = [sides["comparisons_heldout"] for sides in (first, second, third)]
    assert all(40 < len(prompts) < 80 for prompts in heldout)
    assert not heldout[0] & heldout[1] and not heldout[0] & heldout[2]
    assert first["comparisons_reserve"] == heldout[1] | heldout[2]
    assert second["comparisons_reserve"] == heldout[2] and "comparisons_reserve" not in third
    # a fold that was in use trains, one that will be has trained nothing
    assert second["comparisons_train"] == first["comparisons_train"] | heldout[0]
    assert third["comparisons_train"] == second["comparisons_train"] | heldout[1]
    for sides in (first, second, third):
        for side in ("train", "heldout", "reserve"):
            assert sides.get(f"demonstrations_{side}") == sides.get(f"comparisons_{side}")


def test_the_first_fold_is_the_split_without_folds():
    alone, first = prompts_by_split(folded(1, folds=1)), prompts_by_split(folded(1))
    assert alone["comparisons_heldout"] == first["comparisons_heldout"]
    assert alone["comparisons_train"] == first["comparisons_train"] | first["comparisons_reserve"]


def test_the_reserve_is_kept_from_training_rows_with_a_held_out_file_of_their_own_too():
    sides = prompts_by_split(folded(1, more=["demonstrations_heldout"]))
    assert sides["demonstrations_reserve"] == sides["comparisons_reserve"]
    assert not sides["demonstrations_train"] & sides["comparisons_reserve"]
    assert len(sides["demonstrations_heldout"]) == 300  # the user's own file, whole


@pytest.mark.parametrize("split_by", ["prompt", "root", "cluster"])
def test_a_group_is_in_one_fold(split_by):
    sides = prompts_by_split(folded(2, split_by=split_by))
    names = ("comparisons_train", "comparisons_heldout", "comparisons_reserve")
    assert sum(len(sides[name]) for name in names) == 300


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"heldout_fold": 2}, "heldout_fold is 2, but heldout_folds is 1"),
        ({"heldout_folds": 10}, "leaves no training data; expected less than 1"),
        (
            {"heldout_folds": 2, "demonstrations_heldout": "d", "comparisons_heldout": "c"},
            "every held-out set is a file",
        ),
    ],
)
def test_folds_that_cannot_be_cut_are_refused(options, said):
    with pytest.raises(ValueError, match=said):
        data(**options)
    assert "heldout_folds" not in data().model_dump(mode="json")


def test_without_prompt_files_the_prompts_are_those_of_the_comparisons_each_once():
    tables = hash_split()
    del tables["prompts"]
    splits = make_splits(tables)
    for side in ("train", "heldout"):
        assert list(splits[f"prompts_{side}"]) == unique_prompts(splits[f"comparisons_{side}"])


def test_prompts_that_differ_in_white_space_only_are_both_kept_and_not_added_twice():
    tables = hash_split(50)
    side = next(e for e in tables["prompts"].entries if e.split == "prompts_heldout").record[
        "prompt"
    ][0]["content"]
    tables["prompts"] = table("prompts", [entry(1, side), entry(2, f" {side}")]).assigned(
        lambda _: "prompts_heldout"
    )
    splits = make_splits(tables)
    assert_nothing_vanished(tables, splits)
    assert [r["prompt"][0]["content"].strip() for r in splits["prompts_heldout"]].count(side) == 2


def test_a_row_that_vanished_from_its_split_is_noticed():
    tables = hash_split()
    splits = make_splits(tables)
    assert_nothing_vanished(tables, splits)
    with pytest.raises(AssertionError, match="comparisons_train: 1 kept rows are missing"):
        assert_nothing_vanished(
            tables, {**splits, "comparisons_train": splits["comparisons_train"][1:]}
        )
    with pytest.raises(AssertionError, match="200 rows became 199"):
        tables["comparisons"].with_entries(tables["comparisons"].entries[1:])


def test_a_split_file_gives_back_its_records_and_refuses_a_broken_line(tmp_path):
    records = [
        {"id": "1", "prompt": user("ü\u2028x"), "meta": {}},
        {"id": "2", "prompt": user("b"), "meta": {"k": [1, None]}},
    ]
    save_split(tmp_path / "s.jsonl", records)
    assert list(load_split(tmp_path / "s.jsonl")) == records
    (tmp_path / "s.jsonl").write_text('{"id": "1"}\n{"id"')
    with pytest.raises(BadInput, match=r"s\.jsonl line 2 is not JSON"):
        list(load_split(tmp_path / "s.jsonl"))

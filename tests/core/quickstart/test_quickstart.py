import json
import statistics
from random import Random

import pytest
import torch

from rlhf_core.errors import BadInput
from rlhf_core.quickstart import base_model, utility
from rlhf_core.quickstart.annotators import ANNOTATORS, VOTES, preference
from rlhf_core.quickstart.corpus import (
    CONTRASTED_SHARE,
    SIZES,
    corpus,
    raw_text,
    split_requests,
    write_files,
)
from rlhf_core.quickstart.language import (
    MAX_PROMPT_WORDS,
    MAX_REPLY_WORDS,
    OBJECTS,
    VERBS,
    replace_subject,
    vocabulary,
)
from rlhf_core.quickstart.utility import parse_request, score

PROMPT = "please tell me how to clean a wooden table ."


@pytest.fixture(scope="module")
def files():
    return corpus(1)


def utilities(rows, key):
    return score([row["prompt"] for row in rows], [row[key] for row in rows])


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ("", 0.0),
        ("let us clean the table .", 0.8),
        ("let us paint the table .", -0.5),
        ("let us clean the chair .", 0.8 - 0.6),
        ("first wipe the table with soap .", 0.9),
        ("first wipe the table .", 0.0),  # no tool: not concrete
        ("first wipe the chair with soap .", -0.6),
        (
            "first wipe the table with soap . then wipe the table with oil .",
            0.9,
        ),  # one action twice is one step
        (
            "first wipe the table with soap . then wipe the table with soap .",
            0.9 - 0.6,
        ),  # and the same words a repeat
        ("first wipe the table with soap . then rub the table with oil !", 1.8),
        (
            "wipe table soap . rub table soap . dry table soap . sand table soap .",
            2.7,
        ),  # three steps are enough
        ("glad to help . good luck !", 0.8),
        ("glad to help . thanks for asking . good luck !", 0.8),  # two courtesies are enough
        ("you idiot !", -1.0),
        ("well , it depends .", -0.6),
        (
            (
                "let us clean the table . first wipe the table with soap . then use oil and rub the"
                " table . good luck !"
            ),
            3.0,
        ),
        (" ".join(["so"] * 40), -0.05 * 8),
    ],
)
def test_utility_equals_the_value_computed_by_hand(reply, expected):
    assert score([PROMPT], [reply]) == [pytest.approx(expected)]


def test_utility_depends_on_what_was_asked():
    reply = "let us clean the table . first wipe the table with soap ."
    asked, other = score([PROMPT, PROMPT.replace("table", "piano")], [reply, reply])
    assert asked - other == pytest.approx(0.9 + 2 * 0.6)


def test_utility_refuses_what_it_cannot_judge():
    with pytest.raises(BadInput, match="not a quickstart request"):
        score(["what is the capital of france ?"], ["paris ."])
    with pytest.raises(BadInput, match="one reply a prompt"):
        score([PROMPT], [])


def test_the_same_seed_writes_the_same_bytes_and_another_seed_others(tmp_path):
    for folder, seed in (("a", 1), ("b", 1), ("c", 2)):
        write_files(tmp_path / folder, seed=seed)
    for name in SIZES:
        first, again, other = (
            (tmp_path / folder / f"{name}.jsonl").read_bytes() for folder in "abc"
        )
        assert first == again != other
        assert len(first.splitlines()) == SIZES[name]
        assert json.loads(first.splitlines()[0])["prompt"]


def test_heldout_files_ask_for_combinations_that_no_training_file_or_raw_text_holds(files):
    asked = {name: {parse_request(row["prompt"]) for row in rows} for name, rows in files.items()}
    raw = raw_text(1)
    train = {parse_request(next(raw)[0]) for _ in range(3000)}.union(
        *(asked[n] for n in asked if n.endswith("train"))
    )
    heldout = set().union(*(asked[n] for n in asked if n.endswith("heldout")))
    assert not train & heldout
    for part in (train, heldout):
        assert {r.verb for r in part} == set(VERBS)
        assert {r.object for r in part} == set(OBJECTS)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_every_verb_and_object_is_in_training_for_any_seed(seed):
    train, heldout = split_requests(seed)
    assert {r.verb for r in train} == set(VERBS)
    assert {r.object for r in train} == set(OBJECTS)
    assert 0.15 < len(heldout) / (len(train) + len(heldout)) < 0.25


def test_no_row_is_there_twice_and_no_pair_holds_equal_replies(files):
    for rows in files.values():
        assert len({json.dumps(row) for row in rows}) == len(rows)
    for name in ("comparisons_train", "comparisons_heldout"):
        assert all(row["chosen"] != row["rejected"] for row in files[name])


def test_every_text_is_within_its_limit_and_made_of_known_words(files):
    known = set(vocabulary())
    for rows in files.values():
        for row in rows:
            for field in row.keys() & {"prompt", "response", "chosen", "rejected"}:
                words = row[field].split()
                assert (
                    1 <= len(words) <= (MAX_PROMPT_WORDS if field == "prompt" else MAX_REPLY_WORDS)
                )
                assert set(words) <= known


def test_votes_are_a_majority_of_those_asked_and_disagreement_is_kept(files):
    rows = files["comparisons_train"]
    assert all(row["votes_for"] + row["votes_against"] == VOTES for row in rows)
    assert all(row["votes_for"] > row["votes_against"] for row in rows)
    assert 0.3 < statistics.mean(row["votes_against"] > 0 for row in rows) < 0.6


@pytest.mark.parametrize("annotator", ANNOTATORS)
def test_an_annotator_errs_at_the_stated_rate_when_the_better_reply_is_clear(annotator):
    replies = (
        "let us clean the table .",
        "let us clean the chair .",
    )  # equal length and courtesy: no leaning
    chance = preference(annotator, replies, (20.0, -20.0))
    assert chance == pytest.approx(1 - annotator.error_rate, abs=1e-6)
    rng = Random(0)
    votes = [rng.random() < chance for _ in range(4000)]
    assert 1 - statistics.mean(votes) == pytest.approx(annotator.error_rate, abs=0.02)
    assert preference(annotator, replies, (1.0, 1.0)) == pytest.approx(0.5)


def test_true_utility_predicts_the_labels_well_and_length_hardly(files):
    for name in ("comparisons_train", "comparisons_heldout"):
        rows = files[name]
        margins = [
            a - b
            for a, b in zip(utilities(rows, "chosen"), utilities(rows, "rejected"), strict=True)
        ]
        longer = [len(row["chosen"].split()) - len(row["rejected"].split()) for row in rows]
        ceiling, baseline = (
            statistics.mean((x > 0) + (x == 0) / 2 for x in values) for values in (margins, longer)
        )
        assert 0.80 < ceiling < 0.90
        assert 0.45 < baseline < 0.60


def test_a_share_of_the_pairs_differs_only_in_what_the_reply_is_about(files):
    def only_about(row):
        words = list(zip(row["chosen"].split(), row["rejected"].split(), strict=False))
        changed = {pair for pair in words if pair[0] != pair[1]}
        return (
            len(row["chosen"].split()) == len(row["rejected"].split())
            and len(changed) == 1
            and (all({*pair} <= set(VERBS) or {*pair} <= set(OBJECTS) for pair in changed))
        )

    rows = files["comparisons_train"]
    contrasted = [row for row in rows if only_about(row)]
    assert (
        0.08 < len(contrasted) / len(rows) < CONTRASTED_SHARE + 0.03
    )  # some replies say neither verb nor object
    gains = [
        a - b
        for a, b in zip(
            utilities(contrasted, "chosen"), utilities(contrasted, "rejected"), strict=True
        )
    ]
    assert statistics.mean(gain > 0 for gain in gains) > 0.75


def test_a_strayed_reply_is_about_something_else_and_otherwise_the_same():
    request, reply = (
        parse_request(PROMPT),
        "let us clean the table . first wipe the table with soap .",
    )
    rng = Random(1)
    strayed = {replace_subject(rng, request, reply) for _ in range(60)}
    assert reply not in strayed and len(strayed) > 10
    for text in strayed:
        words = set(zip(reply.split(), text.split(), strict=True))
        assert {old for old, new in words if old != new} in ({"table"}, {"clean"})
    assert replace_subject(rng, request, "glad to help .") == "glad to help ."


def test_demonstrations_leave_room_above_them(files):
    values = sorted(utilities(files["demonstrations_train"], "response"))
    assert statistics.mean(values) < 1.0
    assert 1.0 < statistics.pstdev(values) < 3.0
    assert values[-15] > 3.0
    best = 0.8 + 0.9 * utility.MAX_STEPS + 0.4 * utility.MAX_COURTESIES
    assert values[-1] <= best + 1e-9


def test_decoding_gives_back_exactly_the_text_that_was_tokenised(files):
    tokenizer = base_model.make_tokenizer()
    for row in files["comparisons_heldout"]:
        for text in (row["prompt"], row["chosen"], row["rejected"]):
            ids = tokenizer(text, add_special_tokens=False)["input_ids"]
            assert len(ids) == len(text.split())
            assert tokenizer.unk_token_id not in ids
            assert (
                tokenizer.decode([*ids, tokenizer.eos_token_id], skip_special_tokens=True) == text
            )


def test_the_chat_template_puts_one_token_before_each_turn_and_ends_a_reply_with_end_of_text():
    tokenizer = base_model.make_tokenizer()
    user, reply = (
        {"role": "user", "content": PROMPT},
        {"role": "assistant", "content": "good luck !"},
    )
    asked = tokenizer.apply_chat_template([user], add_generation_prompt=True, return_dict=False)
    answered = tokenizer.apply_chat_template([user, reply], return_dict=False)
    names = tokenizer.convert_ids_to_tokens(answered)
    assert names == [
        "<bos>",
        "<user>",
        *PROMPT.split(),
        "<assistant>",
        "good",
        "luck",
        "!",
        "<eos>",
    ]
    assert answered[: len(asked)] == asked
    assert (
        len(
            {
                tokenizer.pad_token_id,
                tokenizer.bos_token_id,
                tokenizer.eos_token_id,
                tokenizer.unk_token_id,
            }
        )
        == 4
    )


@pytest.mark.slow
def test_the_base_model_learns_and_learns_the_same_twice():
    tokenizer, runs = base_model.make_tokenizer(), []
    for _ in range(2):
        torch.manual_seed(3)
        losses = []
        model = base_model.make_model(tokenizer)
        base_model.train(
            model,
            tokenizer,
            seed=3,
            steps=12,
            log=lambda step, steps, loss, kept=losses: kept.append(loss),
        )
        runs.append((losses, model.state_dict()))
    (losses, first), (_, second) = runs
    assert losses[-1] < losses[0] - 1.5
    assert all(torch.equal(first[name], second[name]) for name in first)

"""The files of the quickstart: which requests, pairs and demonstrations they hold."""

import json
import statistics

import pytest

from rlhf_core.digest import digest_path
from rlhf_core.quickstart import utility
from rlhf_core.quickstart.corpus import (
    CONTRASTED_SHARE,
    SIZES,
    corpus,
    raw_text,
    split_requests,
    write_files,
)
from rlhf_core.quickstart.language import OBJECTS, VERBS
from rlhf_core.quickstart.utility import parse_request, score


def utilities(rows, key):
    return score([row["prompt"] for row in rows], [row[key] for row in rows])


def test_the_same_seed_writes_the_same_bytes_and_another_seed_others(tmp_path):
    for folder, seed in (("a", 1), ("b", 1), ("c", 2)):
        write_files(tmp_path / folder, seed=seed, split_seed=seed)
    for name in SIZES:
        first, again, other = (
            (tmp_path / folder / f"{name}.jsonl").read_bytes() for folder in "abc"
        )
        assert first == again != other
        assert len(first.splitlines()) == SIZES[name]
        assert json.loads(first.splitlines()[0])["prompt"]


def test_the_rows_of_the_default_seeds_are_those_of_every_earlier_release(tmp_path):
    write_files(tmp_path, seed=1, split_seed=1)
    for feedback in tmp_path.glob("feedback_*.jsonl"):  # which earlier releases did not have
        feedback.unlink()
    assert (
        digest_path(tmp_path) == "567704b6ba60bc3381330248d3b216481a15a441fb3659b3b1103a839ff8bfc8"
    )


def test_no_seed_trains_on_a_request_that_another_seed_holds_out(files):
    other = corpus(2, 1)
    for name, rows in other.items():
        assert (rows == files[name]) == name.endswith("heldout")
    trained = {
        parse_request(r["prompt"]) for n, rows in other.items() if "train" in n for r in rows
    }
    raw = raw_text(2, 1)
    trained |= {parse_request(next(raw)[0]) for _ in range(1000)}
    assert not trained & {parse_request(row["prompt"]) for row in files["prompts_heldout"]}


def test_heldout_files_ask_for_combinations_that_no_training_file_or_raw_text_holds(files):
    asked = {name: {parse_request(row["prompt"]) for row in rows} for name, rows in files.items()}
    raw = raw_text(1, 1)
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
    # some replies say neither verb nor object
    assert 0.08 < len(contrasted) / len(rows) < CONTRASTED_SHARE + 0.03
    gains = [
        a - b
        for a, b in zip(
            utilities(contrasted, "chosen"), utilities(contrasted, "rejected"), strict=True
        )
    ]
    assert statistics.mean(gain > 0 for gain in gains) > 0.75


def test_demonstrations_leave_room_above_them(files):
    values = sorted(utilities(files["demonstrations_train"], "response"))
    assert statistics.mean(values) < 1.0
    assert 1.0 < statistics.pstdev(values) < 3.0
    assert values[-15] > 3.0
    best = 0.8 + 0.9 * utility.MAX_STEPS + 0.4 * utility.MAX_COURTESIES
    assert values[-1] <= best + 1e-9

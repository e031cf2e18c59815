"""Votes in files: CSV and JSON Lines."""

import json

import pytest

from rlhf_core.errors import BadInput
from rlhf_core.labels.aggregation import vote_row
from rlhf_core.labels.formats import read_votes
from rlhf_core.labels.outcome import labelled_data
from rlhf_core.labels.votes import LabelPair, Vote, pair_id_of

ROW = {"prompt": "How?", "reply_a": "So.", "reply_b": "Thus.", "annotator": "ann", "choice": "a"}


def jsonl(tmp_path, *rows: dict):
    file = tmp_path / "votes.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


def test_a_row_of_json_lines_is_a_vote(tmp_path):
    found = read_votes(jsonl(tmp_path, ROW | {"strength": "clearly", "comment": "x", "at": 5}))
    (pair,), (vote,) = found.pairs, found.votes
    assert (pair.prompt, pair.reply_a) == ([{"role": "user", "content": "How?"}], "So.")
    assert (vote.choice, vote.strength, vote.comment, vote.at) == ("a", 2.0, "x", 5.0)


def test_csv_with_names_of_its_own_is_read_as_the_same_votes(tmp_path):
    file = tmp_path / "votes.csv"
    file.write_text(
        "question,answer1,answer2,annotator,choice,strength\n"
        '"How, exactly?","So,\nthere.",Thus.,ann,Both bad,\n',
        encoding="utf-8",
    )
    columns = {"prompt": "question", "reply_a": "answer1", "reply_b": "answer2"}
    found = read_votes(file, columns)
    assert found.pairs[0].reply_a == "So,\nthere." and found.votes[0].choice == "both_bad"
    assert found.votes[0].strength is None


@pytest.mark.parametrize("row", ['How?,So.,Thus.,ann,a,"no end', 'How?,So.,Thus.,ann,a,"x"y'])
def test_a_quote_that_is_not_closed_is_refused_and_swallows_no_votes(tmp_path, row):
    file = tmp_path / "votes.csv"
    good = "Why?,So.,Thus.,bob,b,"
    file.write_text(f"prompt,reply_a,reply_b,annotator,choice,comment\n{row}\n{good}\n", "utf-8")
    with pytest.raises(BadInput, match=r"votes\.csv line [23] is not CSV"):
        read_votes(file)


def test_the_other_order_of_the_replies_is_the_same_pair(tmp_path):
    other = ROW | {"reply_a": "Thus.", "reply_b": "So.", "annotator": "bob", "first": "a"}
    found = read_votes(jsonl(tmp_path, ROW, other))
    assert len(found.pairs) == 1
    assert [(v.annotator, v.choice, v.first) for v in found.votes] == [
        ("ann", "a", None),
        ("bob", "b", "b"),
    ]


def test_a_second_vote_of_a_person_replaces_the_first(tmp_path):
    found = read_votes(jsonl(tmp_path, ROW, ROW | {"choice": "b"}))
    assert [vote.choice for vote in found.votes] == ["b"]


def test_what_close_writes_is_read_again(tmp_path):
    found = read_votes(jsonl(tmp_path, ROW | {"first": "b", "strength": 3}))
    row = vote_row(found.votes[0], found.pairs[0], {"ann": "ann"})
    again = read_votes(jsonl(tmp_path, row))
    assert again.votes == found.votes


@pytest.mark.parametrize("replies", [("So.", "Thus."), ("Thus.", "So.")])
def test_a_gold_item_that_close_writes_stays_one_and_becomes_no_data(tmp_path, replies):
    prompt = [{"role": "user", "content": "Gold?"}]
    gold = LabelPair(pair_id_of(prompt, *replies), prompt, *replies, "gold", gold="a")
    rows = [vote_row(Vote(gold.pair_id, name, "b"), gold, {name: name}) for name in ("ann", "bob")]
    rows[0].pop("gold")  # a pair is gold where one of its rows says so
    found = read_votes(jsonl(tmp_path, *rows, ROW))
    again, asked = found.pairs
    assert (again.reply_a if again.gold == "a" else again.reply_b) == replies[0]
    assert all(vote.choice != again.gold for vote in found.votes[:2]) and asked.gold is None
    data = labelled_data(found.pairs, found.votes, {"ann": "A", "bob": "B"}, "w")
    assert [row["prompt"][0]["content"] for row in data.comparisons] == ["How?"]


def test_names_that_differ_in_capitals_are_one_annotator(tmp_path):
    rows = (ROW | {"annotator": " Ann "}, ROW | {"choice": "b"}, ROW | {"prompt": "Why?"})
    found = read_votes(jsonl(tmp_path, *rows))
    assert [(vote.annotator, vote.choice) for vote in found.votes] == [("Ann", "b"), ("Ann", "a")]


def test_a_cell_of_csv_may_be_long(tmp_path):
    file, reply = tmp_path / "votes.csv", "x" * 200_000
    file.write_text(f"{','.join(ROW)}\nHow?,{reply},Thus.,ann,a\n", encoding="utf-8")
    assert reply in (found := read_votes(file).pairs[0]).reply_a + found.reply_b
    file.write_text(f"{','.join(ROW)}\nHow?,a\rb,Thus.,ann,a\n", encoding="utf-8", newline="")
    with pytest.raises(BadInput, match=r"line 2 has another number of cells|is not CSV"):
        read_votes(file)


def test_half_a_character_is_refused_with_its_line(tmp_path):
    with pytest.raises(BadInput, match=r"line 2 is no JSON .*surrogates not allowed"):
        read_votes(jsonl(tmp_path, ROW, ROW | {"comment": "\ud83d"}))


def test_two_right_answers_of_a_gold_item_are_refused(tmp_path):
    with pytest.raises(BadInput, match="line 2: gold is another answer than in an earlier row"):
        read_votes(jsonl(tmp_path, ROW | {"gold": "a"}, ROW | {"gold": "b"}))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"gold": "yes"}, "line 1: gold is 'yes'; expected a, b, same"),
        ({"choice": "maybe"}, "line 1: choice is 'maybe'; expected a, b, same"),
        ({"annotator": ""}, "line 1 has no annotator"),
        ({"reply_b": "So."}, "both replies are 'So.'"),
        ({"reply_b": 4}, "reply_b is 4; expected the text"),
        ({"strength": -1}, "strength is -1; expected a number of 0 or more"),
        ({"first": "left"}, "first is 'left'; expected a or b"),
        ({"prompt": [{"role": "user"}]}, "line 1: .*expected a text, or messages"),
    ],
)
def test_a_bad_row_is_named_with_its_line(tmp_path, change, says):
    with pytest.raises(BadInput, match=says):
        read_votes(jsonl(tmp_path, ROW | change))


def test_files_that_hold_no_votes_are_refused(tmp_path):
    with pytest.raises(BadInput, match="is no file"):
        read_votes(tmp_path / "absent.jsonl")
    with pytest.raises(BadInput, match=r"'\.xlsx'; expected \.json"):
        read_votes(tmp_path / "votes.xlsx")
    with pytest.raises(BadInput, match="holds no votes"):
        read_votes(jsonl(tmp_path))
    (tmp_path / "votes.jsonl").write_text("{not json\n", encoding="utf-8")
    with pytest.raises(BadInput, match="line 1 is no JSON"):
        read_votes(tmp_path / "votes.jsonl")
    (tmp_path / "votes.csv").write_text("prompt,choice\nx,a,more\n", encoding="utf-8")
    with pytest.raises(BadInput, match="another number of cells"):
        read_votes(tmp_path / "votes.csv")
    with pytest.raises(BadInput, match="--column names reply"):
        read_votes(jsonl(tmp_path, ROW), {"reply": "x"})

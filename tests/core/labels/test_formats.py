"""Votes in files: CSV and JSON Lines."""

import json

import pytest

from rlhf_core.errors import BadInput
from rlhf_core.labels.aggregation import vote_row
from rlhf_core.labels.formats import read_votes

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


@pytest.mark.parametrize(
    ("change", "says"),
    [
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

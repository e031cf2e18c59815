"""The labels that a campaign has for a run are counted, and their file is found."""

import pytest

from rlhf_core.errors import BadInput, GateRefused
from rlhf_core.labels.votes import LabelPair, Vote
from tasks.labels.answers import Answers, AssignmentState
from tasks.labels.campaign import Assignment, CampaignFolder
from tasks.labels.closing import CloseOptions, close
from tasks.labels.ready import FILE, campaigns_named, completed_pairs, labelled_file, labels_of
from tasks.records.workspace import Workspace


def pair(name: str, gold: str | None = None) -> LabelPair:
    prompt = [{"role": "user", "content": name}]
    return LabelPair(name, prompt, "a", "b", "gold" if gold else "onpolicy", gold=gold)


def answered(annotator: str, name: str, state: str = "done", choice: str = "a") -> AssignmentState:
    vote = Vote(name, annotator, choice) if state == "done" else None
    return AssignmentState(
        Assignment(annotator=annotator, pair_id=name, swapped=False), state, vote
    )


def test_a_pair_is_completed_when_it_has_a_vote_and_nobody_is_still_to_answer():
    states = [
        answered("ann", "once"),
        answered("ann", "half"),
        answered("bob", "half", "pending"),
        answered("ann", "twice"),
        answered("bob", "twice", "declined"),
        answered("ann", "declined", "declined"),
        answered("ann", "open", "pending"),
        answered("ann", "gold"),
    ]
    pairs = {one.assignment.pair_id: pair(one.assignment.pair_id) for one in states}
    pairs["gold"] = pair("gold", gold="a")
    assert completed_pairs(Answers(states, pairs)) == 2  # once, twice


def test_an_open_campaign_is_counted_and_closed_into_its_folder_once(open_campaign_of):
    made = open_campaign_of(6, "ann", "bob")
    assert labels_of(made.folder, made.workspace).labels == 0
    made.answer("ann")
    assert labels_of(made.folder, made.workspace).labels == 3
    with pytest.raises(GateRefused, match="alpha is unknown"):
        labelled_file(made.folder, made.workspace, 0.5)
    assert labels_of(made.folder, made.workspace).labels == 3  # nothing was closed
    file = labelled_file(made.folder, made.workspace, None)
    assert file == made.folder.path / FILE and len(file.read_text().splitlines()) == 3
    assert labelled_file(made.folder, made.workspace, 0.5) == file  # it is closed by now
    assert labels_of(made.folder, made.workspace).labels == 3


def test_a_campaign_that_was_closed_by_hand_has_its_own_file(open_campaign_of, tmp_path):
    made = open_campaign_of(2, "ann")
    made.answer("ann")
    out = tmp_path / "mine.jsonl"
    close(made.folder, CloseOptions(out), made.workspace)
    assert labels_of(made.folder, made.workspace).labels == 2
    assert labelled_file(made.folder, made.workspace, None) == out
    out.unlink()
    with pytest.raises(BadInput, match=r"was closed into .*mine.jsonl, which is gone"):
        labelled_file(made.folder, made.workspace, None)


def test_a_name_must_be_there_and_a_pattern_may_fit_later_ones(open_campaign_of, home):
    workspace = Workspace(home)
    assert campaigns_named(workspace, "week-*") == []
    with pytest.raises(BadInput, match="no labelling campaign is named 'week-48'"):
        campaigns_named(workspace, "week-48")
    made = open_campaign_of(1, "ann")
    for wanted in ("week-48", "week-*"):
        assert [folder.name for folder in campaigns_named(workspace, wanted)] == ["week-48"]
    assert campaigns_named(workspace, "month-*") == []
    assert isinstance(made.folder, CampaignFolder)

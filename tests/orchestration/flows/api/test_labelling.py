"""Campaigns and files of votes from Python."""

import json

import pytest
from campaigns import opened_campaign

from flows import api as rlhf
from tasks.records.workspace import Workspace


def votes(*choices: str) -> str:
    rows = [
        {"prompt": "How?", "reply_a": "So.", "reply_b": "Thus.", "annotator": who, "choice": choice}
        for who, choice in zip(("ann", "bob", "cem"), choices, strict=True)
    ]
    return "".join(json.dumps(row) + "\n" for row in rows)


def test_votes_of_a_file_become_comparisons(home, tmp_path):
    file, out = tmp_path / "votes.jsonl", tmp_path / "comparisons.jsonl"
    file.write_text(votes("b", "b", "a"), encoding="utf-8")
    found = rlhf.import_labels(file, out, real_names=True)
    (row,) = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    assert (row["chosen"], row["rejected"], sorted(row["votes"])) == ("Thus.", "So.", [0, 1, 1])
    assert len(found.comparisons) == 1 and sorted(row["annotators"]) == ["ann", "bob", "cem"]
    with pytest.raises(rlhf.BadInput, match="there already"):
        rlhf.import_labels(file, out)


def test_annotators_who_disagree_are_refused_and_nothing_is_written(home, tmp_path):
    file, out = tmp_path / "votes.jsonl", tmp_path / "comparisons.jsonl"
    file.write_text(votes("b", "b", "a"), encoding="utf-8")
    with pytest.raises(rlhf.GateRefused):
        rlhf.import_labels(file, out, min_alpha=0.9)
    assert not out.exists()


def test_unknown_campaigns_runs_and_names_are_refused(home):
    with pytest.raises(rlhf.BadInput, match="no labelling campaign is named 'week-48'"):
        rlhf.campaign("week-48")
    with pytest.raises(rlhf.BadInput, match="the campaign's name is 'A b'"):
        rlhf.open_campaign("A b", "latest", ["ann"])
    with pytest.raises(rlhf.BadInput, match="names no run"):
        rlhf.open_campaign("week-48", "latest", ["ann"])


@pytest.mark.slow  # it opens a campaign in a real store
def test_a_campaign_is_answered_from_its_queues_and_closed(home, tmp_path):
    made = opened_campaign(Workspace(home), 6, "ann", "bob", overlap=1.0)
    campaign = rlhf.campaign("week-48")
    assert campaign.num_pairs == 6 and list(campaign.pages) == ["ann", "bob"]
    queue = campaign.queue("ann")
    assert len(queue) == 6 and set(queue["trace_id"]) != set(campaign.queue("bob")["trace_id"])
    swapped = {made.campaign.trace_id(one): one.swapped for one in made.campaign.of("ann")}
    for row in queue.itertuples():
        assert row.reply_1.startswith("Thus" if swapped[row.trace_id] else "So")
    with pytest.raises(rlhf.BadInput, match="'cem' has no queue in week-48; expected one of ann"):
        campaign.queue("cem")
    made.answer("ann", "a")
    made.answer("bob", "a", most=2)
    assert campaign.status().states == {"ann": {"done": 6}, "bob": {"done": 2, "pending": 4}}
    out = tmp_path / "comparisons.jsonl"
    done = campaign.close(out)
    assert (done["comparisons"], done["votes"]) == (6, 8) and out.is_file()
    with pytest.raises(rlhf.BadInput, match="is closed"):
        campaign.close(tmp_path / "other.jsonl")

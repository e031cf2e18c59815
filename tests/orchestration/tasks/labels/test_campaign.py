"""The folder of a campaign, and what leaves it."""

import pytest

from rlhf_core.errors import BadInput
from tasks.labels.answers import Answers
from tasks.labels.campaign import Campaign, CampaignFolder, Queue
from tasks.labels.closing import provenance
from tasks.labels.files import require_out
from tasks.labels.queues import queue_page
from tasks.records.workspace import Workspace


def test_a_campaign_whose_close_was_stopped_is_not_changed(tmp_path):
    folder = CampaignFolder(Workspace(tmp_path), "week-48")
    folder.require_open()
    folder.closing.mkdir(parents=True)
    with pytest.raises(BadInput, match="Close it again: rlhf label close week-48"):
        folder.require_open()
    folder.require_not_closed()


def test_the_password_of_mlflows_address_leaves_the_workspace_nowhere():
    campaign = Campaign.new("w", {"ann": ["p"]}, 1, "http://me:secret@host:5000")
    campaign.queues = {"ann": Queue(queue_id="q", name="w: ann")}
    known = provenance(campaign, Answers([]), {"ann": "A"})
    assert known["tracking_uri"] == "http://me:***@host:5000"
    assert "secret" not in queue_page(campaign, campaign.queues["ann"])


def test_the_data_do_not_say_whose_queue_is_which():
    """On the server a queue has its annotator's name, so that it would undo the pseudonym."""
    campaign = Campaign.new("w", {"ann": ["p"], "bob": ["p"]}, 1, "http://host:5000")
    campaign.queues = {
        name: Queue(queue_id=f"q-{name[::-1]}", name=name) for name in ("bob", "ann")
    }
    known = provenance(campaign, Answers([]), {"ann": "A", "bob": "B"})
    assert known["queues"] == ["q-bob", "q-nna"] and known["annotators"] == ["A", "B"]


def test_out_is_refused_where_other_labels_stand_beside_it(tmp_path):
    require_out(tmp_path / "c.jsonl")
    (tmp_path / "c.labels").mkdir()
    with pytest.raises(BadInput, match=r"c\.labels is there already; expected neither"):
        require_out(tmp_path / "c.jsonl")

"""Opening a campaign, and changing who labels what."""

import re
from pathlib import Path

import mlflow
import pytest
from mlflow.genai.review_queues import list_review_queue_items, list_review_queues
from mlflow.tracing.client import TracingClient

from rlhf_core.errors import BadInput
from tasks.labels import opening
from tasks.labels.campaign import CampaignFolder
from tasks.labels.opening import Reassignment, campaign_and_answers, make_in_mlflow, reassign
from tasks.labels.queues import LabelQueues, queue_page
from tasks.records.workspace import Workspace

pytestmark = pytest.mark.slow  # each opens a campaign in a real store


def test_the_page_shows_prompt_and_replies_in_seeded_order_and_nothing_of_models(open_campaign_of):
    made = open_campaign_of(12, "ann")
    campaign = made.campaign
    traces = {
        trace.info.trace_id: trace
        for trace in mlflow.MlflowClient().search_traces(locations=[campaign.experiment_id])
    }
    assert len(traces) == 12 and {one.swapped for one in campaign.assignments} == {True, False}
    pairs = {pair.pair_id: pair for pair in made.folder.pairs()}
    times = []
    for one in campaign.of("ann"):
        trace, pair = traces[campaign.trace_id(one)], pairs[one.pair_id]
        replies = [pair.reply_a, pair.reply_b]
        first, second = replies[::-1] if one.swapped else replies
        shown = trace.info.response_preview
        assert trace.info.request_preview == pair.prompt[0]["content"]
        assert shown == f"**Reply 1**\n\n{first}\n\n---\n\n**Reply 2**\n\n{second}"
        text = str(trace.to_dict())
        assert "onpolicy" not in text and "run-1" not in text
        times.append(trace.info.request_time)
    assert times == sorted(times, reverse=True)  # the page shows the newest first


def test_each_annotator_has_a_queue_of_their_own_with_two_questions(open_campaign_of):
    made = open_campaign_of(8, "ann", "bob", overlap=1.0)
    queues = list_review_queues(experiment_id=made.campaign.experiment_id)
    assert sorted(queue.users for queue in queues) == [["ann"], ["bob"]]
    assert all(len(queue.schema_ids) == 2 for queue in queues)
    assert [len(list_review_queue_items(queue.queue_id)) for queue in queues] == [8, 8]


def test_the_address_of_a_queue_is_a_route_of_mlflows_page(open_campaign_of):
    made = open_campaign_of(2, "ann")
    page = queue_page(made.campaign, made.campaign.queues["ann"])
    route = re.fullmatch(r".*/#/experiments/\d+(/[a-z-]+)\?selectedQueueId=rq-\w+.*", page)[1]
    scripts = Path(mlflow.__file__).parent / "server" / "js" / "build" / "static" / "js"
    known = f'"/experiments/:experimentId{route}"'
    assert any(known in file.read_text(encoding="utf-8") for file in scripts.glob("*.js"))


def test_an_opening_that_was_killed_is_completed_by_the_next(open_campaign_of, monkeypatch):
    made_once = LabelQueues.make_queue
    with monkeypatch.context() as patch:

        def killed_at_bob(self, annotator, pairs):
            made_once(self, annotator, pairs)
            if annotator == "bob":
                raise KeyboardInterrupt

        patch.setattr(LabelQueues, "make_queue", killed_at_bob)
        with pytest.raises(KeyboardInterrupt):
            open_campaign_of(6, "ann", "bob", "cem")
    workspace = Workspace.here()
    folder = CampaignFolder(workspace, "week-48")
    with pytest.raises(BadInput, match="opened in part"):
        campaign_and_answers(folder, workspace)
    campaign = make_in_mlflow(folder, workspace)
    assert len(list_review_queues(experiment_id=campaign.experiment_id)) == 3
    _, answers = campaign_and_answers(folder, workspace)
    assert [one.state for one in answers.all] == ["pending"] * 6


def test_traces_that_were_half_made_are_completed(open_campaign_of, monkeypatch):
    """A command killed after the spans leaves traces whose page is empty."""
    with monkeypatch.context() as patch:

        def killed(self, info):
            raise KeyboardInterrupt

        patch.setattr(TracingClient, "start_trace", killed)
        with pytest.raises(KeyboardInterrupt):
            open_campaign_of(3, "ann")
    workspace = Workspace.here()
    campaign = make_in_mlflow(CampaignFolder(workspace, "week-48"), workspace)
    found = mlflow.MlflowClient().search_traces(locations=[campaign.experiment_id])
    assert len(found) == 3
    assert all("Reply 2" in (one.info.response_preview or "") for one in found)


def test_the_pairs_of_who_leaves_go_to_others_and_the_votes_stay(open_campaign_of):
    made = open_campaign_of(12, "ann", "bob", "cem")
    made.answer("bob", most=1)
    given = reassign(made.folder, made.workspace, Reassignment(without=["bob"]))
    assert sum(map(len, given.values())) == 3 and set(given) <= {"ann", "cem"}
    _, answers = campaign_and_answers(made.folder, made.workspace)
    assert answers.counted("bob") == {"done": 1, "left": 3}
    assert answers.counted("ann")["pending"] + answers.counted("cem")["pending"] == 11
    (left,) = list_review_queue_items(made.campaign.queues["bob"].queue_id)
    assert left.status == "complete"
    with pytest.raises(BadInput, match="--without names dee"):
        reassign(made.folder, made.workspace, Reassignment(without=["dee"]))


def test_a_pair_in_dispute_gets_one_further_vote_and_not_two(open_campaign_of):
    made = open_campaign_of(3, "ann", "bob", overlap=1.0)
    made.answer("ann", "a")
    made.answer("bob", "b", most=2)
    given = reassign(made.folder, made.workspace, Reassignment(disputes=True, add=["cem"]))
    assert {name: len(pairs) for name, pairs in given.items()} == {"cem": 2}
    assert reassign(made.folder, made.workspace, Reassignment(disputes=True)) == {}


def test_a_deleted_pair_stays_deleted_when_others_change_hands(open_campaign_of):
    made = open_campaign_of(4, "ann", "bob")
    deleted = made.campaign.trace_id(made.campaign.of("ann")[0])
    mlflow.MlflowClient().delete_traces(made.campaign.experiment_id, trace_ids=[deleted])
    reassign(made.folder, made.workspace, Reassignment(without=["bob"]))
    _, answers = campaign_and_answers(made.folder, made.workspace)
    assert answers.counted("ann") == {"deleted": 1, "pending": 3}


def test_a_name_is_taken_once(open_campaign_of):
    made = open_campaign_of(1, "ann")
    with pytest.raises(BadInput, match="a campaign named week-48 already"):
        opening._require_stopped(made.folder)

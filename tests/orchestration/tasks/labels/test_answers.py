"""Count the answers of every state of a queue."""

import time

import mlflow
import pytest
from accounts import become
from mlflow.entities import AssessmentSource, Feedback
from mlflow.genai.review_queues import (
    ReviewItemType,
    ReviewQueueItem,
    ReviewStatus,
    remove_items_from_review_queue,
)

from tasks.labels.answers import SLACK, answers_of
from tasks.labels.campaign import Campaign, Queue
from tasks.labels.opening import campaign_and_answers
from tasks.labels.pages import BETTER
from tasks.labels.queues import ReviewState


def states(made) -> list[tuple[str, str]]:
    _, answers = campaign_and_answers(made.folder, made.workspace)
    return [(one.state, one.note) for one in answers.all]


def test_every_state_of_an_item_is_told_apart(open_campaign_of):
    made = open_campaign_of(8, "ann")
    campaign = made.campaign
    _, declined, _, deleted, empty, named, by_bob, removed = map(
        campaign.trace_id, campaign.of("ann")
    )
    made.answer("ann", "b", most=1)
    made.finish("ann", declined, "declined")
    mlflow.MlflowClient().delete_traces(campaign.experiment_id, trace_ids=[deleted])
    made.finish("ann", empty)  # completed without an answer
    made.log(named, BETTER, "Both are bad", "bob")  # a name in the payload
    made.finish("ann", named)
    made.log(by_bob, BETTER, "Both are bad", "bob")
    made.finish("ann", by_bob, by="bob")
    queue_id = campaign.queues["ann"].queue_id
    remove_items_from_review_queue(queue_id, item_ids=[removed])
    assert states(made) == [
        ("done", ""),
        ("declined", ""),
        ("pending", ""),
        ("deleted", ""),
        ("refused", "no answer"),
        ("refused", "answered under the name bob"),
        ("refused", "completed by bob"),
        ("removed", ""),
    ]
    _, answers = campaign_and_answers(made.folder, made.workspace)
    (vote,) = answers.votes
    assert (vote.annotator, vote.choice, vote.strength) == ("ann", "b", 2.0)
    assert vote.comment == "ann says so" and vote.at > 0
    assert vote.first == ("b" if campaign.assignments[0].swapped else "a")


def test_a_reopened_item_is_pending_and_its_new_answer_counts(open_campaign_of):
    made = open_campaign_of(1, "ann")
    made.answer("ann", "a")
    trace_id = made.campaign.trace_id(made.campaign.assignments[0])
    made.finish("ann", trace_id, "pending")
    assert states(made) == [("pending", "")]
    made.answer("ann", "same")
    _, answers = campaign_and_answers(made.folder, made.workspace)
    assert [vote.choice for vote in answers.votes] == ["same"]


def test_a_label_on_a_deleted_pair_is_refused_by_the_server(open_campaign_of):
    made = open_campaign_of(1, "ann")
    trace_id = made.campaign.trace_id(made.campaign.assignments[0])
    mlflow.MlflowClient().delete_traces(made.campaign.experiment_id, trace_ids=[trace_id])
    with pytest.raises(mlflow.exceptions.MlflowException):
        made.log(trace_id, BETTER, "Both are bad", "default")
    assert states(made) == [("deleted", "")]


SUBMITTED = 10_000_000  # milliseconds since the epoch


def answer_of_ann(identity: str, made: int, changed: int, **more) -> Feedback:
    """Return an answer under Ann's name. made, changed: milliseconds after she submitted."""
    answer = Feedback(
        name=BETTER,
        value="Reply 1 is better",
        source=AssessmentSource("HUMAN", "ann"),
        create_time_ms=SUBMITTED + made,
        last_update_time_ms=SUBMITTED + changed,
        **more,
    )
    answer.assessment_id = identity
    return answer


def submitted(queue_id: str, trace_id: str) -> ReviewQueueItem:
    """Return an item that Ann has completed."""
    return ReviewQueueItem(
        queue_id=queue_id,
        item_type=ReviewItemType.TRACE,
        item_id=trace_id,
        status=ReviewStatus.COMPLETE,
        creation_time_ms=0,
        last_update_time_ms=SUBMITTED,
        completed_by="ann",
        completed_time_ms=SUBMITTED,
    )


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        ([answer_of_ann("1", -50, -50)], ("done", "")),
        ([answer_of_ann("1", -50, -10)], ("done", "")),  # nobody can see who changed it
        ([answer_of_ann("1", -50, SLACK + 1)], ("refused", "changed after it was submitted")),
        (
            [answer_of_ann("1", SLACK + 1, SLACK + 1)],
            ("refused", "answered after it was submitted"),
        ),
        (  # the answer before the one that was changed does not count in its place
            [answer_of_ann("1", -90, -90), answer_of_ann("2", -50, SLACK + 1, overrides="1")],
            ("refused", "changed after it was submitted"),
        ),
    ],
)
def test_with_accounts_a_change_after_the_submission_does_not_count(answers, expected):
    campaign = Campaign.new("w", {"ann": ["p"]}, 1, "http://127.0.0.1:1")
    campaign.accounts = True
    campaign.queues = {"ann": Queue(queue_id="q", name="w: ann")}
    trace_id = campaign.trace_id(campaign.assignments[0])
    items = {("q", trace_id): submitted("q", trace_id)}
    (one,) = answers_of(campaign, {}, ReviewState(items, {trace_id: answers})).all
    assert (one.state, one.note) == expected


def test_an_item_in_another_queue_completes_nothing():
    """Somebody may put a trace into a queue of somebody else, and complete it there."""
    campaign = Campaign.new("w", {"ann": ["p"], "bob": []}, 1, "http://127.0.0.1:1")
    campaign.queues = {name: Queue(queue_id=name, name=f"w: {name}") for name in ("ann", "bob")}
    trace_id = campaign.trace_id(campaign.assignments[0])
    items = {("bob", trace_id): submitted("bob", trace_id)}
    given = {trace_id: [answer_of_ann("1", -50, -50)]}
    (one,) = answers_of(campaign, {}, ReviewState(items, given)).all
    assert one.state == "removed"


@pytest.mark.slow
def test_on_a_server_with_accounts_a_forged_author_counts_for_nothing(
    monkeypatch, accounts_campaign
):
    """Bob may write answers under Ann's name, and cannot complete her pairs as Ann."""
    made = accounts_campaign
    campaign = made.campaign
    first, second, third, fourth = map(campaign.trace_id, campaign.of("ann"))
    assert campaign.accounts
    become(monkeypatch, "bob")
    made.log(first, BETTER, "Reply 1 is better", "ann")
    with pytest.raises(mlflow.exceptions.MlflowException, match="denied"):
        made.finish("ann", first, by="ann")
    become(monkeypatch, "ann")
    made.log(second, BETTER, "They are the same", "ann")
    made.finish("ann", second, by="bob")  # the server takes the account, not the payload
    made.log(third, BETTER, "They are the same", "ann")
    made.finish("ann", third)
    become(monkeypatch, "bob")  # what bob adds under Ann's name after she has submitted
    time.sleep(SLACK / 1000 + 0.5)
    made.log(third, BETTER, "Both are bad", "ann")
    made.log(fourth, BETTER, "Both are bad", "ann")
    become(monkeypatch, "ann")
    made.log(fourth, BETTER, "They are the same", "ann")
    made.finish("ann", fourth)
    become(monkeypatch, "admin")
    assert states(made) == [
        ("pending", ""),
        ("done", ""),
        ("done", ""),
        ("refused", "answered more than once under one name"),
    ]
    _, answers = campaign_and_answers(made.folder, made.workspace)
    assert [(vote.annotator, vote.choice) for vote in answers.votes] == [("ann", "same")] * 2

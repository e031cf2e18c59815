"""Count the votes that MLflow's server recorded, and never a name in an answer.

A queue item says who completed it (`completed_by`), which a server with accounts takes from the
account. An answer itself carries a name that whoever wrote it chose. So a vote counts where its
queue's own annotator completed the item, and its answer is the one under that name. With accounts,
an answer made or changed after the completion does not count: MLflow cannot say who did it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from mlflow.entities import Assessment, AssessmentSourceType, Feedback
from mlflow.genai.review_queues import ReviewQueueItem, ReviewStatus

from rlhf_core.labels.votes import STRENGTHS, LabelPair, Vote
from tasks.labels.campaign import Assignment, Campaign
from tasks.labels.pages import BETTER, STRENGTH, choice_of
from tasks.labels.queues import ReviewState

# pending: nobody has answered; declined: the annotator will not; deleted: the pair is gone from
# MLflow; removed: it was taken out of the queue, by hand or by the close; left: the annotator left
# before answering; refused: an answer that does not count
State = Literal["pending", "done", "declined", "deleted", "removed", "left", "refused"]
NO_ACCOUNT = "default"  # the name of everybody on a server without accounts
SLACK = 2000  # milliseconds between an answer and the completion that follows it


@dataclass(frozen=True)
class AssignmentState:
    """The state of one pair in one annotator's queue. note: why an answer does not count."""

    assignment: Assignment
    state: State
    vote: Vote | None = None
    note: str = ""


@dataclass(frozen=True)
class Answers:
    """The state of every assignment of a campaign."""

    all: list[AssignmentState]
    pairs: dict[str, LabelPair] = field(default_factory=dict)

    @property
    def votes(self) -> list[Vote]:
        """The votes that count, those on a pair that somebody deleted left out."""
        return [one.vote for one in self.all if one.vote is not None]

    def counted(self, annotator: str) -> dict[str, int]:
        """Return the number of an annotator's pairs by state."""
        found: dict[str, int] = {}
        for one in self.all:
            if one.assignment.annotator == annotator:
                found[one.state] = found.get(one.state, 0) + 1
        return found

    @property
    def refused(self) -> list[AssignmentState]:
        """The answers that do not count."""
        return [one for one in self.all if one.state == "refused"]


def answers_of(
    campaign: Campaign, pairs: Mapping[str, LabelPair], reviewed: ReviewState
) -> Answers:
    """Return what became of every assignment, from what MLflow has."""
    found = [_answered(campaign, one, reviewed) for one in campaign.assignments]
    return Answers(found, dict(pairs))


def _answered(campaign: Campaign, one: Assignment, reviewed: ReviewState) -> AssignmentState:
    trace_id = campaign.trace_id(one)
    queue, answers = campaign.queues.get(one.annotator), reviewed.assessments.get(trace_id)
    item = reviewed.items.get((queue.queue_id, trace_id)) if queue else None
    if answers is None:
        return AssignmentState(one, "deleted")
    if queue and queue.left and (item is None or item.status == ReviewStatus.PENDING):
        return AssignmentState(one, "left")
    if item is None:  # the queue, or the item in it, is gone
        return AssignmentState(one, "removed")
    if item.status == ReviewStatus.PENDING:
        return AssignmentState(one, "pending")
    author = (item.completed_by or "").lower()
    if not _is_own(campaign, one.annotator, author):
        return AssignmentState(one, "refused", note=f"completed by {author or 'nobody'}")
    if item.status == ReviewStatus.DECLINED:
        return AssignmentState(one, "declined")
    return _vote(campaign, one, item, answers)


def _is_own(campaign: Campaign, annotator: str, author: str) -> bool:
    expected = {annotator.strip().lower()}
    return author in (expected if campaign.accounts else expected | {NO_ACCOUNT})


def _vote(
    campaign: Campaign, one: Assignment, item: ReviewQueueItem, answers: list[Assessment]
) -> AssignmentState:
    """Return the vote of a completed item, or why it is none."""
    found, note = _answer(campaign, item, answers, BETTER)
    if found is None:
        return AssignmentState(one, "refused", note=note)
    choice = choice_of(found.value, swapped=one.swapped)
    if choice is None:
        return AssignmentState(one, "refused", note=f"answered {found.value!s:.40}")
    strength, _ = _answer(campaign, item, answers, STRENGTH)
    return AssignmentState(
        one,
        "done",
        Vote(
            pair_id=one.pair_id,
            annotator=one.annotator,
            choice=choice,
            strength=STRENGTHS.get(str(strength.value)) if strength else None,
            comment=found.rationale or "",
            at=(item.completed_time_ms or 0) / 1000,
            first="b" if one.swapped else "a",
        ),
    )


def _answer(
    campaign: Campaign, item: ReviewQueueItem, answers: list[Assessment], question: str
) -> tuple[Feedback | None, str]:
    """Return the answer that counts, or why none does."""
    author, end = (item.completed_by or "").lower(), (item.completed_time_ms or 0) + SLACK
    given = [
        one
        for one in answers
        if isinstance(one, Feedback)
        and one.name == question
        and one.source.source_type == AssessmentSourceType.HUMAN
    ]
    own = [one for one in given if (one.source.source_id or "").lower() == author]
    if not own:
        others = sorted({one.source.source_id or "" for one in given})
        return None, f"answered under the name {', '.join(others)}" if others else "no answer"
    if campaign.accounts:
        own = [one for one in own if (one.create_time_ms or 0) <= end]
        if not own:
            return None, "answered after it was submitted"
    replaced = {one.overrides for one in own}
    last = [one for one in own if one.assessment_id not in replaced]
    if campaign.accounts and (note := _doubt(last, end)):
        return None, note
    return max(last, key=lambda one: one.create_time_ms or 0), ""


def _doubt(last: list[Feedback], end: int) -> str:
    """Return why nobody knows which of an annotator's last answers was submitted, or nothing.

    An edit keeps the name and the creation time of an answer, and sets the time of its last update.
    """
    if any((one.last_update_time_ms or 0) > end for one in last):
        return "changed after it was submitted"
    if len({str(one.value) for one in last}) > 1:
        return "answered more than once under one name"
    return ""

"""Approvals on an MLflow server with accounts: items of a review queue, signed by the server.

An item is a trace whose id is made of the digest of the evidence, so that an answer is about these
very bytes and gate records. The members of the queue, whom `rlhf access setup` names, complete an
item (approved) or decline it (rejected), and the server records which account did and when. The
pipeline's account may add items; it cannot answer them, nor change who may.
"""

import re
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

from mlflow import MlflowClient
from mlflow.entities import TraceInfo, TraceLocation, TraceState
from mlflow.exceptions import MlflowException
from mlflow.genai import review_queues
from mlflow.genai.review_queues import ReviewQueue, ReviewQueueItem, ReviewStatus
from mlflow.tracing.client import TracingClient

from rlhf_core.errors import BadInput
from tasks.records.approval_record import ApprovalRecord

QUEUE = "approvals"
PLACE = "approval_queue"  # tag of the ledger's registered model
_TRACE_DIGITS = 32  # of an evidence's digest, as in any id of a trace
_STATES = {ReviewStatus.COMPLETE: "approved", ReviewStatus.DECLINED: "rejected"}


def experiment_name(name: str) -> str:
    """Return the name of the experiment with the approvals of a registry name."""
    return f"{name}-approvals"


@dataclass(frozen=True)
class ApprovalQueue:
    """The queue of approvals of one registry name.

    members: the accounts that may answer, in small letters, as MLflow compares them.
    """

    client: MlflowClient
    experiment_id: str
    id: str
    owner: str
    members: tuple[str, ...]

    @property
    def place(self) -> str:
        """The ids of experiment and queue, which no renaming changes."""
        return f"{self.experiment_id}/{self.id}"

    def ask(self, asked: ApprovalRecord) -> ApprovalRecord:
        """Put a request into the queue unless it is there; return it with the answer so far."""
        try:
            item = self._item(asked)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            self._start_trace(asked)
            item = self._item(asked)
        return self._answered(asked, item)

    def answer(
        self, asked: ApprovalRecord, account: str, *, approve: bool, comment: str
    ) -> ApprovalRecord:
        """Answer a request as `account`, which is this process's; return what counts, the first.

        The comment is there before the answer: a waiting run reads both at once. Raises BadInput
        for an account that is no member.
        """
        before = self.ask(asked)
        if before.state != "waiting":
            return before
        status = ReviewStatus.COMPLETE if approve else ReviewStatus.DECLINED
        if comment:
            self.client.set_trace_tag(_item_id(asked), _comment_tag(account), comment)
        try:
            item = review_queues.set_review_queue_item_status(
                self.id, item_id=_item_id(asked), status=str(status), completed_by=None
            )
        except MlflowException as error:
            if error.error_code != "PERMISSION_DENIED":
                raise
            raise BadInput(
                "Permission denied: this account of MLflow's server may not approve; expected one"
                f" of {', '.join(self.members) or 'nobody'} (an admin adds one: rlhf access setup"
                " NAME --approver ACCOUNT)."
            ) from error
        return self._answered(asked, item)

    def _item(self, asked: ApprovalRecord) -> ReviewQueueItem:
        """Return the item of a request; adding it again changes nothing, and needs no membership.

        MLflow lists the items to members alone.
        """
        (item,) = review_queues.add_items_to_review_queue(self.id, item_ids=[_item_id(asked)])
        return item

    def _start_trace(self, asked: ApprovalRecord) -> None:
        text = f"May the policy of {asked.run} be promoted? Complete: yes. Decline: no."
        TracingClient(self.client.tracking_uri).start_trace(
            TraceInfo(
                trace_id=_item_id(asked),
                trace_location=TraceLocation.from_experiment_id(self.experiment_id),
                request_time=int(time.time() * 1000),
                state=TraceState.OK,
                request_preview=text,
                trace_metadata={"rlhf.run": asked.run, "rlhf.evidence": asked.evidence},
            )
        )

    def _answered(self, asked: ApprovalRecord, item: ReviewQueueItem) -> ApprovalRecord:
        state = _STATES.get(item.status)
        if state is None:
            return asked.model_copy(update={"state": "waiting"})
        trace = TracingClient(self.client.tracking_uri).get_trace_info(_item_id(asked))
        return asked.model_copy(
            update={
                "state": state,
                "by": item.completed_by,
                "identity": "account",
                "comment": trace.tags.get(_comment_tag(item.completed_by or ""), ""),
                "door": "rlhf approve",
                "decided_at": datetime.fromtimestamp((item.completed_time_ms or 0) / 1000, UTC),
            }
        )


def find_queue(client: MlflowClient, name: str) -> ApprovalQueue | None:
    """Return the queue of approvals of a registry name; None where nobody has set it up.

    It is found by the ids that the ledger's tag keeps, and not by its experiment's name: who asks
    for approvals may write the experiment, and so rename it, but not the ledger. Raises BadInput
    where the queue of the tag is gone.
    """
    place = recorded_place(client, name)
    experiment_id = place.partition("/")[0] or _experiment_id(client, name)
    if experiment_id is None:
        return None
    for queue in _queues_in(experiment_id):
        found = _queue(client, queue)
        if found.place == place or (not place and queue.name == QUEUE):
            return found
    if place:
        raise BadInput(
            f"the queue of approvals of {name} ({place}) is not on MLflow's server any more, so"
            " nothing can be approved; an admin makes one anew: delete the tag"
            f" {PLACE} of the registered model {_ledger(name)}, and run rlhf access setup {name}."
        )
    return None


def require_queue(client: MlflowClient, name: str) -> ApprovalQueue:
    """Return the queue of approvals of a registry name. Raises BadInput without one."""
    queue = find_queue(client, name)
    if queue is None:
        raise BadInput(
            f"MLflow's server has accounts, and no queue of approvals of {name}, so nothing can be"
            f" approved; expected one. An admin makes it: rlhf access setup {name} --approver"
            " ACCOUNT."
        )
    return queue


def recorded_place(client: MlflowClient, name: str) -> str:
    """Return 'EXPERIMENT/QUEUE', the ids that `record_place` has kept; '' where it has not."""
    try:
        return client.get_registered_model(_ledger(name)).tags.get(PLACE, "")
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return ""


def record_place(client: MlflowClient, name: str) -> None:
    """Keep the ids of a queue, found by its experiment's name, in a tag of the ledger."""
    if queue := find_queue(client, name):
        client.set_registered_model_tag(_ledger(name), PLACE, queue.place)


def make_queue(client: MlflowClient, experiment_id: str, members: Iterable[str]) -> None:
    """Make the queue of approvals in an experiment; whoever calls this owns it."""
    review_queues.create_review_queue(
        QUEUE, queue_type="custom", users=list(members), experiment_id=experiment_id
    )


def set_members(queue: ApprovalQueue, members: Iterable[str]) -> None:
    """Set who may answer."""
    review_queues.update_review_queue(queue.id, users=list(members))


def _ledger(name: str) -> str:
    return f"{name}-ledger"


def _experiment_id(client: MlflowClient, name: str) -> str | None:
    experiment = client.get_experiment_by_name(experiment_name(name))
    return experiment.experiment_id if experiment else None


def _queues_in(experiment_id: str) -> Iterator[ReviewQueue]:
    """Yield the queues of an experiment; none of one that was deleted."""
    token = None
    try:
        while True:
            page = review_queues.list_review_queues(experiment_id=experiment_id, page_token=token)
            yield from page
            token = page.token
            if not token:
                return
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise


def _queue(client: MlflowClient, found: ReviewQueue) -> ApprovalQueue:
    return ApprovalQueue(
        client, str(found.experiment_id), found.queue_id, found.created_by or "", tuple(found.users)
    )


def _comment_tag(account: str) -> str:
    """Return the tag of a trace with the comment of an account, in what MLflow allows as a key."""
    return "comment." + re.sub(r"[^a-z0-9_.-]", "_", account.lower())


def _item_id(asked: ApprovalRecord) -> str:
    return f"tr-{asked.evidence[:_TRACE_DIGITS]}"

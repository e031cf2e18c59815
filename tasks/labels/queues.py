"""A campaign in MLflow: an experiment, questions, a trace per pair and person, a queue per person.

Each annotator has a queue of their own, because a shared one closes an item at the first answer,
and a trace of their own per pair, because the page shows a trace's answers to everybody. All that
is made has a name or an id that follows from the campaign: to make it again changes nothing.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import quote

from mlflow import MlflowClient
from mlflow.entities import Assessment, Span, SpanType, Trace, TraceInfo, TraceLocation, TraceState
from mlflow.exceptions import MlflowException
from mlflow.genai import label_schemas, review_queues
from mlflow.genai.review_queues import ReviewQueue, ReviewQueueItem, ReviewStatus
from mlflow.tracing.client import TracingClient
from mlflow.tracing.constant import SpanAttributeKey, TraceTagKey
from mlflow.tracing.utils import dump_span_attribute_value

from rlhf_core.labels.votes import LabelPair
from tasks.labels.campaign import Assignment, Campaign, Queue
from tasks.labels.pages import QUESTIONS, ShownPair
from tasks.records.workspace import Workspace
from tasks.tracking.client import connect, find_or_create_experiment, page_base

SPANS = 50  # in one request
ITEMS = 100  # of a queue, in one request


@dataclass(frozen=True)
class ReviewState:
    """A campaign in MLflow. assessments: by trace; a trace without a key is deleted."""

    items: dict[tuple[str, str], ReviewQueueItem]  # by queue and trace
    assessments: dict[str, list[Assessment]]


class LabelQueues:
    """One campaign's experiment in MLflow. Methods raise what MLflow raises."""

    def __init__(self, campaign: Campaign, workspace: Workspace) -> None:
        self._campaign = campaign
        self._workspace = workspace
        self.client: MlflowClient = connect(campaign.tracking_uri)
        self._tracing = TracingClient(campaign.tracking_uri)

    @property
    def experiment_id(self) -> str:
        """The id of the campaign's experiment."""
        assert self._campaign.experiment_id is not None  # `make_questions` comes first
        return self._campaign.experiment_id

    def make_questions(self) -> None:
        """Make the experiment and its questions where they are absent, and note their ids."""
        campaign = self._campaign
        campaign.experiment_id = find_or_create_experiment(
            self.client, self._workspace, campaign.experiment
        )
        known = {one.name: one for one in label_schemas.list_label_schemas(self.experiment_id)}
        found = []
        for question in reversed(QUESTIONS):  # the page shows the newest first
            schema = known.get(question.name) or label_schemas.create_label_schema(
                question.name,
                type="feedback",
                input=label_schemas.InputCategorical(options=list(question.options)),
                instruction=question.instruction,
                enable_comment=question.comment,
                experiment_id=self.experiment_id,
            )
            found.append(str(schema.schema_id))
        campaign.schema_ids = found

    def make_queue(self, annotator: str, pairs: dict[str, LabelPair]) -> None:
        """Make what is new of an annotator's traces and queue, and note the queue's id.

        A trace that was made before and is gone was deleted by somebody: it stays so.
        """
        campaign = self._campaign
        # a command that was killed leaves traces without previews, which the page shows empty
        there = {one.info.trace_id for one in self._traces() if one.info.response_preview}
        new = [
            (place, one) for place, one in enumerate(campaign.of(annotator)) if not one.is_in_mlflow
        ]
        absent = [(place, one) for place, one in new if campaign.trace_id(one) not in there]
        for start in range(0, len(absent), SPANS):
            self._store(absent[start : start + SPANS], pairs)
        name = f"{campaign.name}: {annotator}"
        queue = self._queue_named(name) or review_queues.create_review_queue(
            name,
            queue_type="custom",
            users=[annotator],
            schema_ids=campaign.schema_ids,
            experiment_id=self.experiment_id,
        )
        campaign.queues[annotator] = Queue(queue_id=queue.queue_id, name=name)
        ids = [campaign.trace_id(one) for _, one in new]
        for start in range(0, len(ids), ITEMS):
            review_queues.add_items_to_review_queue(
                queue.queue_id, item_ids=ids[start : start + ITEMS]
            )

    def _queue_named(self, name: str) -> ReviewQueue | None:
        try:
            return review_queues.get_review_queue(name=name, experiment_id=self.experiment_id)
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return None
            raise

    def _store(self, placed: list[tuple[int, Assignment]], pairs: dict[str, LabelPair]) -> None:
        shown = [
            (place, one, ShownPair.of(pairs[one.pair_id], swapped=one.swapped))
            for place, one in placed
        ]
        spans = [self._span(one, pair) for _, one, pair in shown]
        self._tracing.log_spans(self.experiment_id, spans)
        for place, one, pair in shown:  # after its span, whose trace this completes
            self._tracing.start_trace(self._trace(place, one, pair))

    def _time(self, place: int) -> int:
        """Return a trace's time: the page shows the newest first."""
        return self._campaign.created - place

    def _span(self, one: Assignment, shown: ShownPair) -> Span:
        identity = self._campaign.trace_id(one)
        attributes = {
            SpanAttributeKey.REQUEST_ID: identity,
            SpanAttributeKey.SPAN_TYPE: SpanType.EVALUATOR,
            SpanAttributeKey.INPUTS: shown.inputs,
        }
        time = self._campaign.created * 1_000_000
        return Span.from_dict(
            {
                "name": "comparison",
                "trace_id": identity,
                "span_id": identity.removeprefix("tr-")[:16],
                "parent_span_id": None,
                "start_time_unix_nano": time,
                "end_time_unix_nano": time,
                "status": {"code": "OK", "message": ""},
                "attributes": {
                    name: dump_span_attribute_value(value) for name, value in attributes.items()
                },
            }
        )

    def _trace(self, place: int, one: Assignment, shown: ShownPair) -> TraceInfo:
        characters = self._campaign.page_characters
        return TraceInfo(
            trace_id=self._campaign.trace_id(one),
            trace_location=TraceLocation.from_experiment_id(self.experiment_id),
            request_time=self._time(place),
            execution_duration=0,
            state=TraceState.OK,
            request_preview=shown.request_preview(characters),
            response_preview=shown.response_preview(characters),
            trace_metadata={},
            tags={TraceTagKey.TRACE_NAME: "comparison"},
        )

    def reviewed(self) -> ReviewState:
        """Return the items of all queues, and all traces with their answers."""
        items = {
            (queue.queue_id, item.item_id): item
            for queue in self._campaign.queues.values()
            for item in self._items(queue.queue_id)
        }
        found = {one.info.trace_id: list(one.info.assessments) for one in self._traces()}
        return ReviewState(items, found)

    def _items(self, queue_id: str) -> Iterator[ReviewQueueItem]:
        try:
            yield from _pages(
                lambda token: review_queues.list_review_queue_items(
                    queue_id, max_results=ITEMS, page_token=token
                )
            )
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":  # a queue that was deleted
                raise

    def _traces(self) -> Iterator[Trace]:
        return _pages(
            lambda token: self.client.search_traces(
                locations=[self.experiment_id],
                max_results=ITEMS,
                page_token=token,
                include_spans=False,
            )
        )

    def remove_pending(self, queue: Queue) -> None:
        """Take what nobody has answered out of a queue, so that nobody answers it any more."""
        pending = [
            item.item_id
            for item in self._items(queue.queue_id)
            if item.status == ReviewStatus.PENDING
        ]
        for start in range(0, len(pending), ITEMS):
            review_queues.remove_items_from_review_queue(
                queue.queue_id, item_ids=pending[start : start + ITEMS]
            )


def queue_page(campaign: Campaign, queue: Queue) -> str:
    """Return the address of a queue for browsers, without a password; the first open pair first."""
    base = page_base(campaign.tracking_uri)
    asked = f"selectedQueueId={quote(queue.queue_id)}&startReview=true"
    return f"{base}/#/experiments/{campaign.experiment_id}/review-queue?{asked}"


def _pages(ask) -> Iterator:  # type: ignore[no-untyped-def]  # the items are MLflow's own
    """Yield the entities of every page that `ask` returns for a token."""
    token = None
    while True:
        page = ask(token)
        yield from page
        token = page.token
        if not token:
            return

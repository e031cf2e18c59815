"""The record of a run that is under way, forwarded to MLflow as it grows."""

import contextlib
import logging
import time
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from rlhf_core.gates.decide import Decision
from tasks.records.approval_record import ApprovalRecord
from tasks.records.forecast import Forecast
from tasks.records.heldout_check import HeldoutCheck
from tasks.records.promotion_record import PromotionRecord
from tasks.records.run_record import Record, Registration, StageRecord, Status, find_records, now
from tasks.records.workspace import Workspace
from tasks.tracking.address import redacted
from tasks.tracking.client import brief, connect, link
from tasks.tracking.forwarder import Forwarder

if TYPE_CHECKING:
    from mlflow import MlflowClient

log = logging.getLogger("rlhf.tracking")


class Tracker:
    """The record of the running pipeline, forwarded every few seconds.

    An MLflow server that does not answer is tried again later.
    """

    EVERY_SECONDS = 2.0
    AFTER_FAILURE_SECONDS = 30.0

    def __init__(self, workspace: Workspace, record: Record):
        self.workspace, self.record = workspace, record
        self.problem: str | None = None  # why MLflow is behind
        self._forwarder: Forwarder | None = None
        self._next_tick = self._next_try = 0.0

    def stage_started(self, stage: str, run_dir: Path, *, cached: bool) -> None:
        """Record that a stage begins, or begins again; cached: it is finished already."""
        entry = self.record.stage(stage)
        if entry is None:
            entry = StageRecord(stage=stage, run_dir=run_dir, started=now())
            self.record.stages.append(entry)
        entry.status, entry.cached = "RUNNING", cached
        entry.ended, entry.error, entry.closed = None, None, False
        self._changed()

    def stage_ended(
        self,
        stage: str,
        *,
        status: Status,
        decisions: Iterable[Decision] = (),
        limits: Iterable[Decision] = (),
        error: str | None = None,
    ) -> None:
        """Record how a stage ended: FINISHED, FAILED (by itself or by its gate) or KILLED.

        The rest of a finished stage goes to MLflow while the next one starts. limits: the decisions
        on what the run had taken by then. Raises KeyError for a stage that has not begun.
        """
        entry = self._entry(stage)
        entry.status, entry.ended = status, now()
        entry.decisions, entry.limits, entry.error = list(decisions), list(limits), error
        self._changed()
        if status == "FINISHED" and entry.run_id:  # without a run it has no page yet
            self._next_tick = 0.0
        else:
            self.flush()

    def keep_heldout_check(self, stage: str, check: HeldoutCheck) -> None:
        """Record what the search for leaked held-out prompts found before a stage.

        Raises KeyError for a stage that has not begun.
        """
        self._entry(stage).heldout_check = check
        self._changed()

    def keep_forecast(self, stage: str, forecast: Forecast) -> None:
        """Record when a running stage will end. Raises KeyError for one that has not begun."""
        self._entry(stage).forecast = forecast
        self._changed()

    def register(self, registration: Registration) -> None:
        """Have a model registered as soon as MLflow answers, again when its records change."""
        others = [item for item in self.record.registrations if item.model != registration.model]
        self.record.registrations = [*others, registration]
        self._changed()

    def keep_approval(self, approval: ApprovalRecord) -> None:
        """Record what a person was asked about the policy, or answered."""
        self.record.approval = approval
        self._changed()

    def keep_promotion(self, promotion: PromotionRecord) -> None:
        """Record the result of the promotion."""
        self.record.promotion = promotion
        self._changed()

    def keep_report(self, path: Path | None) -> None:
        """Record where the run's report is."""
        self.record.report = path
        self._changed()

    def is_behind(self, error: Exception) -> None:
        """Note that MLflow did not answer; the next success of `flush` takes it back."""
        self.problem = brief(error)

    def show_report(self, path: Path | None) -> None:
        """Store the report as it stands in MLflow, if that answers; the final one replaces it."""
        self.keep_report(path)
        if path and self.retry() and self._forwarder:
            self._forwarder.show_report()

    def end(
        self,
        status: Status,
        error: str | None = None,
        report: Callable[[], Path | None] = lambda: None,
    ) -> None:
        """Record how the pipeline ended, and have its report written.

        report: writes the report; a failure to write it is logged and changes no status.
        """
        self.record.status, self.record.error, self.record.ended = status, error, now()
        for stage in self.record.stages:
            if stage.status == "RUNNING":  # it had ended; what broke off came before its gate
                stage.status, stage.error, stage.ended = status, error, now()
        self._changed()
        try:
            self.keep_report(report())
        except Exception as problem:
            log.warning(
                "the report of %s could not be written (%s)", self.record.name, brief(problem)
            )
        self._changed()
        self.retry()

    def tick(self) -> None:
        """Forward what is new, at most every few seconds."""
        if time.monotonic() >= self._next_tick:
            self.flush()
            self._next_tick = time.monotonic() + self.EVERY_SECONDS

    def flush(self) -> bool:
        """Forward now, unless MLflow failed a moment ago; return True when it has everything."""
        if time.monotonic() < self._next_try:
            return False
        try:
            self._forwarder = self._forwarder or Forwarder(self.workspace, self.record)
            self._forwarder.forward()
            self.problem = None
        except Exception as error:
            if not self.problem:
                log.warning(
                    "MLflow at %s is behind (%s); training goes on.",
                    redacted(self.record.tracking_uri),
                    brief(error),
                )
            self.is_behind(error)
            self._next_try = time.monotonic() + self.AFTER_FAILURE_SECONDS
        return self.problem is None

    def retry(self) -> bool:
        """Forward now in any case; return True when MLflow has everything."""
        self._next_try = 0.0
        return self.flush()

    @cached_property
    def client(self) -> "MlflowClient":
        """The client of the store that the record names."""
        return connect(self.record.tracking_uri)

    def link(self, stage: str | None = None) -> str | None:
        """Return the page of a stage's run, or of the parent."""
        entry = self.record.stage(stage) if stage else self.record
        return link(self.record, entry.run_id if entry else None)

    def _entry(self, stage: str) -> StageRecord:
        entry = self.record.stage(stage)
        if entry is None:
            raise KeyError(stage)
        return entry

    def _changed(self) -> None:
        self.record.save(self.workspace)


_OPEN: dict[str, Tracker] = {}  # by record: the trackers of runs that are open in this process


@contextlib.contextmanager
def tracking(workspace: Workspace, record: Record) -> Iterator[Tracker]:
    """Keep one tracker for a run while it is open in this process."""
    tracker = _OPEN[record.id] = Tracker(workspace, record)
    try:
        yield tracker
    finally:
        del _OPEN[record.id]


def tracker_of(workspace: Workspace, record_id: str) -> Tracker:
    """Return the open tracker of a run; elsewhere one from the run's record."""
    if tracker := _OPEN.get(record_id):
        return tracker
    (record,) = find_records(workspace, record_id)
    return Tracker(workspace, record)

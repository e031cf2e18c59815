"""The watch on a running stage: its tracker, its limits, and its forecast."""

import time
from pathlib import Path

from rlhf_core.errors import LimitReached
from rlhf_core.gates.decide import Decision, refused
from rlhf_core.rundir import STOP
from rlhf_core.stage_catalogue import LEARNING, PPO
from tasks.execution.usage import UsageReader, used_elsewhere
from tasks.records import events
from tasks.run_context import RunContext
from tasks.spending.forecasts import Forecaster
from tasks.spending.limits import decide_limits, limit_reached
from tasks.spending.spent import prices_of, spent_by


class StageWatch:
    """The calls that a running stage gets, several times per second."""

    EVERY_SECONDS = 1.0

    def __init__(self, context: RunContext, stage: str, run_dir: Path):
        """Watch a stage that is about to begin, or to go on, in `run_dir`."""
        self._recipe, self._tracker = context.recipe, context.tracker
        self._stage, self._run_dir = stage, run_dir
        prices = prices_of(context.recipe, context.workspace)
        self._spent = spent_by(self._tracker.record, prices)
        self._own, self._elsewhere = UsageReader(run_dir), used_elsewhere(run_dir)
        block = context.recipe.ppo.rollout_block if stage == PPO.name else 1
        self._forecaster, self._forecast_step = Forecaster(run_dir, block=block), 0
        self._next, self._is_asked = 0.0, False

    def __call__(self) -> None:
        """Forward what is new, and look at limits and pace every second.

        Raises LimitReached for a stage without checkpoints.
        """
        self._tracker.tick()
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + self.EVERY_SECONDS
        if refused(self.decisions()):
            self._stop()
        self._forecast()

    def decisions(self) -> list[Decision]:
        """Return the decisions on the run's limits as of now."""
        own = self._own.read() + self._elsewhere
        self._spent = self._spent.with_stage(self._stage, own)
        return decide_limits(self._recipe.limits, self._spent, self._tracker.record, self._stage)

    def require_within(self) -> None:
        """Raise LimitReached if the run may not begin the stage."""
        if refused(self.decisions()):
            raise LimitReached("was not started")

    def explained(self, error: LimitReached) -> LimitReached:
        """Return the error of the stage with the limits that are reached, and what to do."""
        return limit_reached(self.decisions(), self._spent, self._recipe.name, error)

    def _stop(self) -> None:
        """Ask a stage with checkpoints to end after its step, and end another one."""
        if self._stage in LEARNING:
            if not self._is_asked:
                (self._run_dir / STOP).touch()
                self._is_asked = True
        elif not (self._run_dir / "result.json").exists():  # it has not just finished
            raise LimitReached("was ended: it keeps no checkpoints, and begins anew")

    def _forecast(self) -> None:
        spent = self._spent
        usage = spent.stages[self._stage]
        found = self._forecaster.forecast(usage, spent.price, spent.currency)
        if found is None or found.step == self._forecast_step:
            return
        if not self._forecast_step:
            self._tracker.keep_forecast(self._stage, found)
        self._forecast_step = found.step
        events.emit(events.ForecastMade(self._stage, found))

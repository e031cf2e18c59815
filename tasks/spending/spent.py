"""The use of a run so far, over its stages and all their attempts."""

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, replace

from rlhf_core.config import Recipe
from rlhf_core.errors import ConfigError
from tasks.analysis.board.prices import FILE, VARIABLE, Prices, load_prices
from tasks.execution.usage import Usage, used
from tasks.records.run_record import Record
from tasks.records.workspace import Workspace

UNITS = {"hours": "hours", "cpu_hours": "hours of a core", "gpu_hours": "hours of a GPU"}


@dataclass(frozen=True)
class Spent:
    """The usage of a run by stage. price: money per hour of a core and of a GPU; None: unknown."""

    stages: Mapping[str, Usage]
    price: tuple[float, float] | None = None
    currency: str = ""

    @property
    def total(self) -> Usage:
        """The usage of all stages together."""
        return sum(self.stages.values(), Usage())

    def with_stage(self, stage: str, usage: Usage) -> "Spent":
        """Return the same with another usage of a stage."""
        return replace(self, stages={**self.stages, stage: usage})

    def amount(self, key: str) -> float:
        """Return how much was taken of what a key of the limits bounds."""
        return _amount(self.total, key, self.price)

    def unit(self, key: str) -> str:
        """Return the unit of what a key of the limits bounds, in words."""
        return UNITS.get(key) or self.currency or "of money"

    def parts(self, key: str) -> str:
        """Return the stages that took something of it, as in 'sft 0.51, ppo 2.2'."""
        found = {stage: _amount(one, key, self.price) for stage, one in self.stages.items()}
        return ", ".join(f"{stage} {value:.3g}" for stage, value in found.items() if value > 0)


def money_of(usage: Usage, price: tuple[float, float]) -> float:
    """Return the price of the hours of cores and GPUs."""
    return usage.cpu_hours * price[0] + (usage.gpu_hours or 0.0) * price[1]


def prices_of(recipe: Recipe, workspace: Workspace) -> Prices | None:
    """Return the price table, None without one. Raises ConfigError where limits.money needs it.

    Without that limit a table that cannot be used is none: a forecast then has no money.
    """
    if recipe.limits.money is None:
        with contextlib.suppress(ConfigError):
            return load_prices(workspace)
        return None
    if prices := load_prices(workspace):
        return prices
    raise ConfigError(
        f"limits.money is {recipe.limits.money:g}, but there is no price table; expected cpu_hour"
        f" and gpu_hour in {workspace.home / FILE}, or in the file that {VARIABLE} names. Write"
        " one, or set limits.hours, limits.cpu_hours or limits.gpu_hours instead."
    )


def price_here(prices: Prices | None, hardware: Mapping[str, str]) -> tuple[float, float] | None:
    """Return the prices of an hour of a core and of a GPU of a machine; None without prices."""
    if prices is None:
        return None
    return prices.cpu_hour, prices.of_gpu(hardware.get("gpus", "").partition(",")[0])


def spent_by(record: Record, prices: Prices | None) -> Spent:
    """Return what the results of a run have taken, whichever run has made them."""
    stages = {stage.stage: used(stage.run_dir) for stage in record.stages}
    currency = prices.currency if prices else ""
    return Spent(stages, price_here(prices, record.hardware), currency)


def _amount(usage: Usage, key: str, price: tuple[float, float] | None) -> float:
    if key == "money":
        return money_of(usage, price) if price else 0.0
    return getattr(usage, key) or 0.0

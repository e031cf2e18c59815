"""The figures of a sweep: metrics against the varied key, and reward against KL."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import mean, stdev
from typing import TYPE_CHECKING, Any, TypeAlias

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rlhf_core.metrics import METRICS

if TYPE_CHECKING:
    from tasks.sweeps.sweep import SweepMetric, SweepRow

Measured: TypeAlias = "SweepMetric | Spread"
SEED = "seed"  # a further key: the figures show mean and spread over its values
LOG_SPAN = 20.0  # largest / smallest value; beyond it the key's axis is logarithmic
COLORS = [f"C{number}" for number in range(10)]


def value_text(value: Any) -> str:
    """Return the text of a key's value."""
    return f"{value:g}" if isinstance(value, float) else str(value)


def measured_text(measured: "Measured | None") -> str:
    """Return a measured value as '0.42 [0.31, 0.53]'; '-' for None."""
    if measured is None:
        return "-"
    interval = f" [{measured.low:.3g}, {measured.high:.3g}]" if measured.low is not None else ""
    return f"{measured.value:.4g}{interval}"


def frontier(points: Sequence[tuple[float | None, float] | None]) -> list[int]:
    """Return the indices of the points (KL, gain) that no other beats in both, by rising KL."""
    best, found = -math.inf, []
    for _, negative_gain, index in sorted(_finite(points)):
        if -negative_gain > best:
            best = -negative_gain
            found.append(index)
    return found


def _finite(
    points: Sequence[tuple[float | None, float] | None],
) -> Iterator[tuple[float, float, int]]:
    """Yield (KL, -gain, index) of each point that is finite."""
    for index, point in enumerate(points):
        if point is not None:
            kl, gain = point
            if kl is not None and math.isfinite(kl) and math.isfinite(gain):
                yield kl, -gain, index


def metrics_figure(rows: list["SweepRow"], keys: list[str], metrics: list[str]) -> Figure | None:
    """Draw each metric in a panel against the first key; None without any value.

    There is a line for each combination of the other keys.
    """
    names = [name for name in metrics if any(name in row.metrics for row in rows)]
    if not names:
        return None
    columns = min(3, len(names))
    height = math.ceil(len(names) / columns)
    figure = Figure(figsize=(4.6 * columns, 3.4 * height), layout="constrained")
    panels = figure.subplots(height, columns, squeeze=False).flat
    for axes, name in zip(panels, names, strict=False):
        _metric_panel(axes, rows, keys, name)
    for axes in figure.axes[len(names) :]:
        axes.remove()
    return figure


def _metric_panel(axes: Axes, rows: list["SweepRow"], keys: list[str], name: str) -> None:
    key, others = keys[0], [other for other in keys[1:] if other != SEED]
    places = _places([row.values[key] for row in rows])
    series: dict[str, list[tuple[float, SweepRow]]] = {}
    for row, place in zip(rows, places, strict=True):
        if name in row.metrics:
            label = ", ".join(f"{other}={value_text(row.values[other])}" for other in others)
            series.setdefault(label, []).append((place, row))
    for (label, members), color in zip(series.items(), COLORS * len(series), strict=False):
        members.sort(key=lambda member: member[0])
        measured: Sequence[tuple[float, Measured]] = [
            (place, row.metrics[name]) for place, row in members
        ]
        if SEED in keys[1:]:
            measured = over_seeds(measured)
        axes.errorbar(
            [place for place, _ in measured],
            [m.value for _, m in measured],
            yerr=_bars([m for _, m in measured]),
            fmt="-",
            capsize=3,
            linewidth=1.4,
            color=color,
            label=label or None,
        )
        for place, row in members:
            axes.plot(place, row.metrics[name].value, **_marker(row, color))
    unit = METRICS[name].unit if name in METRICS else ""
    spread = "; line: mean over seeds, bar: their standard deviation" if SEED in keys[1:] else ""
    axes.set(title=name, xlabel=key, ylabel=unit + spread)
    _key_axis(axes, [row.values[key] for row in rows])
    axes.grid(alpha=0.3)
    if others:
        axes.legend(fontsize="small")


@dataclass(frozen=True)
class Spread:
    """Mean over seeds with one standard deviation (over n - 1) to each side; None for one seed."""

    value: float
    low: float | None
    high: float | None


def spread_of(values: list[float]) -> Spread:
    """Return mean and standard deviation of the values that different seeds gave."""
    middle = mean(values)
    width = stdev(values) if len(values) > 1 else None
    return (
        Spread(middle, None, None)
        if width is None
        else Spread(middle, middle - width, middle + width)
    )


def over_seeds(measured: Sequence[tuple[float, Measured]]) -> list[tuple[float, Spread]]:
    """Return the spread of the values at each place, by rising place."""
    groups: dict[float, list[float]] = {}
    for place, found in sorted(measured, key=lambda pair: pair[0]):
        groups.setdefault(place, []).append(found.value)
    return [(place, spread_of(values)) for place, values in groups.items()]


def _bars(measured: Sequence[Measured]) -> list[list[float]]:
    """Return the lengths of the bars below and above; 0 where the interval leaves the value out."""
    below = [0.0 if m.low is None else max(0.0, m.value - m.low) for m in measured]
    return [below, [0.0 if m.high is None else max(0.0, m.high - m.value) for m in measured]]


def _marker(row: "SweepRow", color: str) -> dict:
    """Return a full marker for a run that passed, a hollow one for a refused run."""
    return {
        "marker": "o",
        "linestyle": "",
        "color": color,
        "markerfacecolor": color if row.state == "finished" else "white",
    }


def is_numeric(values: list) -> bool:
    """Check that every value is a number."""
    return all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)


def is_logarithmic(values: list) -> bool:
    """Check that the values are positive numbers that span more than a factor of LOG_SPAN."""
    return is_numeric(values) and min(values) > 0 and max(values) > LOG_SPAN * min(values)


def has_zero_and_span(values: list) -> bool:
    """Check that the values are 0 and positive numbers that span more than a factor of LOG_SPAN.

    An example is a coefficient that one run switches off.
    """
    positive = [value for value in values if is_numeric(values) and value > 0]
    return (
        is_numeric(values)
        and min(values) == 0
        and len(set(positive)) > 1
        and is_logarithmic(positive)
    )


def _places(values: list) -> list[float]:
    texts = list(dict.fromkeys(map(value_text, values)))
    return values if is_numeric(values) else [texts.index(value_text(value)) for value in values]


def _key_axis(axes: Axes, values: list) -> None:
    if is_logarithmic(values):
        axes.set_xscale("log")
        axes.minorticks_off()
    elif has_zero_and_span(values):
        least = min(value for value in values if value > 0)
        axes.set_xscale("symlog", linthresh=least)  # 0 is one step left of the least value
        axes.minorticks_off()
    texts = dict(zip(_places(values), map(value_text, values), strict=True))
    if len(texts) <= 8:
        axes.set_xticks(list(texts), [text[:24] for text in texts.values()])


def frontier_figure(rows: list["SweepRow"]) -> Figure | None:
    """Draw reward gain against KL, a point per run, and join the frontier; None without PPO.

    Points: held-out reward-model gain over the SFT model with its 95% interval. Thin curves: PPO
    steps, score on training prompts over that of the first step.
    """
    known = [(row, row.kl, row.gain) for row in rows if row.gain and row.kl is not None]
    if not known:
        return None
    figure = Figure(figsize=(7, 5), layout="constrained")
    axes = figure.subplots()
    for (row, kl, gain), color in zip(known, COLORS * len(known), strict=False):
        _run_with_its_steps(axes, row, (kl, gain), color)
    best = sorted((kl, gain.value) for row, kl, gain in known if row.on_frontier)
    axes.plot(
        [kl for kl, _ in best],
        [gain for _, gain in best],
        "--",
        color="gray",
        zorder=2,
        label="frontier",
    )
    axes.set(
        xlabel="KL from the SFT model (nats per response)",
        ylabel="reward-model score gain",
        title=_frontier_title([row for row, _, _ in known]),
    )
    axes.margins(x=0.2)  # room for the labels
    axes.grid(alpha=0.3)
    has_hollow = any(row.state != "finished" for row, _, _ in known)
    axes.legend(title="hollow: refused by a gate" if has_hollow else None)
    return figure


def _run_with_its_steps(
    axes: Axes, row: "SweepRow", point: tuple[float, "SweepMetric"], color: str
) -> None:
    kl, gain = point
    if row.curve:
        axes.plot(*zip(*row.curve, strict=True), color=color, linewidth=0.8, alpha=0.45, zorder=1)
    bars, marker = _bars([gain]), _marker(row, color)
    axes.errorbar([kl], [gain.value], yerr=bars, capsize=3, zorder=3, **marker)
    axes.annotate(
        row.label,
        (kl, gain.value),
        (6, 6),
        textcoords="offset points",
        fontsize="small",
        color=color,
    )


def _frontier_title(rows: list["SweepRow"]) -> str:
    alike = len({row.reward_model for row in rows}) == 1
    return (
        "Reward against KL"
        if alike
        else "Reward against KL (different reward models: gains do not compare)"
    )

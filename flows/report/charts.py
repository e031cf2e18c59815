"""Small charts as inline SVG: lines, points, steps and bars.

Colours are CSS classes of the page, so they follow its theme.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from markupsafe import Markup

WIDTH, HEIGHT = 400, 240
LEFT, RIGHT, TOP, BOTTOM = 58, 12, 10, 42
MOST_POINTS = 300  # of a line; longer lines are thinned evenly
MOST_DOTS = 60  # lines with more points are drawn without dots
COLORS = 6
LARGEST = 1e300

ChartPoint = tuple[float, float]
Style = Literal["line", "path", "steps"]  # path: points joined in their order, its end marked


@dataclass(frozen=True)
class Series:
    """One line of a chart."""

    label: str
    points: Sequence[ChartPoint]
    color: int = 0  # index into the page's palette
    style: Style = "line"
    intervals: Sequence[tuple[float, float, float]] = ()  # (x, low, high), a vertical bar each


@dataclass(frozen=True)
class Chart:
    """Axes with series in them."""

    title: str
    x_label: str
    y_label: str
    series: list[Series]
    diagonal: bool = False  # draw y = x
    note: str = ""


@dataclass(frozen=True)
class _Axes:
    """The scales of a chart: lowest and highest value in each direction."""

    x: tuple[float, float]
    y: tuple[float, float]

    def place(self, point: ChartPoint) -> tuple[float, float]:
        """Return the position of a point in the picture."""
        across = (point[0] - self.x[0]) / (self.x[1] - self.x[0])
        up = (point[1] - self.y[0]) / (self.y[1] - self.y[0])
        height = HEIGHT - TOP - BOTTOM
        return LEFT + across * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - up * height


def figure(chart: Chart) -> Markup:
    """Return the chart as an HTML figure; '' when no series has a point."""
    drawn = [finite for series in chart.series if (finite := _finite(series)).points]
    if not drawn:
        return Markup("")
    values = [point for series in drawn for point in _covered(series)]
    axes = _Axes(_span([x for x, _ in values]), _span([y for _, y in values]))
    if chart.diagonal:
        axes = _Axes(*[_span([number for point in values for number in point])] * 2)
    parts = [_grid(axes, chart)]
    if chart.diagonal:
        parts.append(_line([axes.place((end, end)) for end in axes.x], "reference"))
    parts += [_series(axes, series, chart) for series in drawn]
    return framed(chart.title, _svg(parts, HEIGHT, chart.title), chart.note)


def _finite(series: Series) -> Series:
    """Return the series without points that are not finite; MLflow stores infinity as 1.8e308."""
    return replace(
        series,
        points=[(x, y) for x, y in series.points if abs(x) < LARGEST and abs(y) < LARGEST],
        intervals=[bar for bar in series.intervals if all(abs(number) < LARGEST for number in bar)],
    )


def _covered(series: Series) -> list[ChartPoint]:
    """Return the points of a series and the ends of its intervals."""
    ends = [(x, end) for x, *bar in series.intervals for end in bar]
    return [*series.points, *ends]


def framed(title: str, picture: Markup, note: str = "", *, classes: str = "") -> Markup:
    """Return a picture with its caption."""
    text = Markup("<p class=note>{}</p>").format(note) if note else ""
    return Markup('<figure class="{}"><figcaption>{}</figcaption>{}{}</figure>').format(
        classes, title, picture, text
    )


def bars(
    title: str,
    labels: list[str],
    series: dict[str, list[float | None]],
    show: Callable[[float], str] = str,
) -> Markup:
    """Return horizontal bars: one group per label, one bar per series in it.

    A value of None has no bar. show: value -> its text.
    """
    largest = max((value for values in series.values() for value in values if value), default=0.0)
    if not largest:
        return Markup("")
    thick, gap, edge = 14, 12, 74
    group = thick * len(series) + gap
    parts = []
    for row, label in enumerate(labels):
        top = 6 + row * group
        middle = top + thick * len(series) / 2 + 4
        parts.append(
            Markup('<text class=label x="{}" y="{}" text-anchor=end>{}</text>').format(
                edge - 8, middle, label
            )
        )
        for place, (name, values) in enumerate(series.items()):
            if (value := values[row]) is not None:
                length = max(1.0, (WIDTH - edge - 80) * value / largest)
                box = (edge, top + place * thick, length, thick - 2)
                parts.append(_bar(box, place, f"{name}: {show(value)}", show(value)))
    return framed(title, _svg(parts, 12 + group * len(labels) - gap, title))


def _bar(box: tuple[float, float, float, float], color: int, hint: str, text: str) -> Markup:
    x, y, width, height = box
    return Markup(
        '<rect class="f{}" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}"'
        ' rx=2><title>{}</title></rect><text class=tick x="{:.1f}" y="{:.1f}">{}</text>'
    ).format(color % COLORS, *box, hint, x + width + 5, y + height - 2, text)


def _series(axes: _Axes, series: Series, chart: Chart) -> Markup:
    points = thinned(series.points, MOST_POINTS)
    places = [
        axes.place(point) for point in (_steps(points) if series.style == "steps" else points)
    ]
    parts = [
        _line(places, f"s{series.color % COLORS}" + (" faint" if series.style == "path" else ""))
    ]
    parts += [
        _line([axes.place((x, low)), axes.place((x, high))], f"s{series.color % COLORS}")
        for x, low, high in series.intervals
    ]
    if series.style != "steps" and len(points) <= MOST_DOTS:
        for point, (x, y) in zip(points, places, strict=True):
            hint = f"{series.label}: {chart.x_label} {point[0]:.4g}, {chart.y_label} {point[1]:.4g}"
            dot = Markup(
                '<circle class="f{}" cx="{:.1f}" cy="{:.1f}" r="2.2"><title>{}</title></circle>'
            )
            parts.append(dot.format(series.color % COLORS, x, y, hint))
    if series.style == "path":
        mark = Markup(
            '<circle class="f{0}" cx="{1:.1f}" cy="{2:.1f}" r=5><title>{3}: last'
            " step</title></circle>"
        )
        parts.append(mark.format(series.color % COLORS, *places[-1], series.label))
    return Markup("").join(parts)


def thinned(values: Sequence, most: int) -> list:
    """Return at most `most` of the values, evenly spaced, with the first and the last."""
    if len(values) <= most:
        return list(values)
    return [values[round(place * (len(values) - 1) / (most - 1))] for place in range(most)]


def _steps(points: Sequence[ChartPoint]) -> list[ChartPoint]:
    """Return the outline of a histogram whose points are (left edge, count).

    The last point is its right end.
    """
    outline = [(points[0][0], 0.0)]
    for (left, count), (right, _) in itertools.pairwise(points):
        outline += [(left, count), (right, count)]
    return [*outline, (points[-1][0], 0.0)]


def _line(places: Sequence[ChartPoint], classes: str) -> Markup:
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    return Markup('<polyline class="{}" points="{}"/>').format(classes, path)


def _grid(axes: _Axes, chart: Chart) -> Markup:
    parts = []
    for value in ticks(*axes.y):
        _, y = axes.place((axes.x[0], value))
        parts.append(
            Markup('<line class=grid x1="{}" x2="{}" y1="{y:.1f}" y2="{y:.1f}"/>').format(
                LEFT, WIDTH - RIGHT, y=y
            )
        )
        tick = Markup('<text class=tick x="{}" y="{:.1f}" text-anchor=end>{}</text>')
        parts.append(tick.format(LEFT - 6, y + 4, number(value)))
    for value in ticks(*axes.x):
        x, _ = axes.place((value, axes.y[0]))
        place = Markup('<text class=tick x="{:.1f}" y="{}" text-anchor=middle>{}</text>')
        parts.append(place.format(x, HEIGHT - BOTTOM + 16, number(value)))
    name = Markup('<text class=label x="{}" y="{}" text-anchor=middle{}>{}</text>')
    middle = TOP + (HEIGHT - TOP - BOTTOM) / 2
    turned = Markup(' transform="rotate(-90 12 {})"').format(middle)
    parts.append(name.format(LEFT + (WIDTH - LEFT - RIGHT) / 2, HEIGHT - 6, "", chart.x_label))
    parts.append(name.format(12, middle, turned, chart.y_label))
    return Markup("").join(parts)


def _svg(parts: list[Markup], height: float, title: str) -> Markup:
    whole = Markup('<svg viewBox="0 0 {} {:.0f}" role=img aria-label="{}">{}</svg>')
    return whole.format(WIDTH, height, title, Markup("").join(parts))


def _span(values: list[float]) -> tuple[float, float]:
    """Return lowest and highest value with some room; the span is never empty."""
    low, high = min(values), max(values)
    room = (high - low) * 0.05 or abs(high) * 0.05 or 1.0
    return (low if 0 <= low < room else low - room), high + room


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Return round values inside [low, high]: multiples of 1, 2 or 5 times a power of ten."""
    rough = (high - low) / about
    power = 10 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough)
    first = math.ceil(low / step)
    return [place * step for place in range(first, math.floor(high / step) + 1)]


def number(value: float) -> str:
    """Return the text of a tick."""
    return f"{value:,.0f}" if abs(value) >= 10000 else f"{value:.4g}"

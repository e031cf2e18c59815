"""The HTML page of a traced PPO batch: data flow, and responses as rows of coloured tokens.

Each chosen response has one row per quantity.
"""

import math
from collections.abc import Iterator
from pathlib import Path

from markupsafe import Markup

from flows.report.page import Section, badge, cell, code, folded, join, page, table
from flows.report.text import shortened
from flows.report.trace_text import facts, heading, many, number, shape, size, sums, totals, visible

STYLE = Markup("<style>{}</style>").format(
    Markup(Path(__file__).with_name("heatmap.css").read_text(encoding="utf-8"))
)
CENTRE = {"ratio": 1.0, "importance": 1.0}  # the value without colour; 0 otherwise
PROMPT = 1500  # characters


def trace_page(name: str, flow: dict, tokens: dict) -> str:
    """Return the page of a trace (trace.json, tokens.json) of the recipe `name`."""
    lead = Markup("{}<p class=dim>One PPO batch, step {} of recipe {}. {}.</p>").format(
        STYLE, flow["step"], name, totals(flow)
    ) + join(Markup("<p>{} {}</p>").format(badge("note", "warn"), note) for note in flow["notes"])
    scales = {quantity: scale(quantity, tokens["rows"]) for quantity in tokens["quantities"]}
    sections: list[Section] = [("Tokens", _legend(tokens, scales))]
    sections += [
        (heading(row), _response(row, tokens["quantities"], scales)) for row in tokens["rows"]
    ]
    sections += [("Data flow", _flow(flow)), ("Settings", _settings(flow))]
    return page(f"PPO batch of {name}", lead, sections)


def scale(quantity: str, rows: list[dict]) -> float:
    """Return the largest distance from the centre over the responses shown; 0 without values."""
    centre = CENTRE.get(quantity, 0.0)
    distances = (
        abs(value - centre)
        for row in rows
        for value in row["values"][quantity] or []
        if not isinstance(value, str)
    )
    return max(distances, default=0.0)


def strength(value: float | str, quantity: str, largest: float) -> tuple[str, int]:
    """Return a value's class and its percentage of full colour, sqrt(|value - centre| / largest).

    The class is 'up', 'down', or 'odd' for a value that is not finite (a string in JSON).
    """
    if isinstance(value, str):
        return "odd", 100
    distance = value - CENTRE.get(quantity, 0.0)
    percent = round(100 * math.sqrt(abs(distance) / largest)) if largest else 0
    return ("down" if distance < 0 else "up"), percent


def _legend(tokens: dict, scales: dict[str, float]) -> Markup:
    ramp = Markup(
        "<p class=note>Each response is shown once per quantity. Colour runs from lowest through 0"
        " (ratio: 1) to highest; its strength is the square root of the distance over the largest"
        " one of that quantity here. Point at a token for the number; all numbers are in the table"
        " under each response.</p><div"
        ' class="ramp"><span>lower</span><i></i><span>higher</span></div>'
    )
    rows = []
    for quantity, words in tokens["quantities"].items():
        middle, largest = CENTRE.get(quantity, 0.0), scales[quantity]
        span = (
            f"{number(middle)} \N{PLUS-MINUS SIGN} {number(largest)}"
            if largest
            else f"{number(middle)} throughout"
        )
        if not any(row["values"][quantity] for row in tokens["rows"]):
            span = "none"
        rows.append(
            [
                cell(words["title"], kind="key"),
                cell(words["meaning"]),
                cell(words["unit"]),
                cell(span, kind="num"),
            ]
        )
    return ramp + table(["quantity", "meaning", "unit", "colour spans"], rows, numeric=[3])


def _response(row: dict, quantities: dict, scales: dict[str, float]) -> Markup:
    lead = Markup("<p class=dim>{}.</p><div class=prompt>{}</div>").format(
        sums(row), shortened(row["prompt"], PROMPT)
    )
    lines = join(
        Markup('<div class=what title="{}">{}</div><div class=line>{}</div>').format(
            words["meaning"], words["title"], _line(row, quantity, words, scales[quantity])
        )
        for quantity, words in quantities.items()
    )
    numbers = folded("The numbers", _numbers(row, quantities, scales))
    return lead + Markup('<div class="card heat">{}</div>').format(lines) + numbers


def _line(row: dict, quantity: str, words: dict, largest: float) -> Markup:
    values = row["values"][quantity]
    if values is None:
        return Markup("<span class=dim>none: there is no critic with this ppo.advantage</span>")
    unit = words["unit"].split(",")[0]
    return join(
        _token(*pair, quantity, unit, largest) for pair in zip(row["tokens"], values, strict=True)
    )


def _token(token: str, value: float | str, quantity: str, unit: str, largest: float) -> Markup:
    kind, percent = strength(value, quantity, largest)
    hover = number(value) if quantity in CENTRE else f"{number(value)} {unit}"
    return Markup('<span class="t {}" style="--v:{}%" title="{}">{}</span>').format(
        kind, percent, hover, visible(token)
    )


def _numbers(row: dict, quantities: dict, scales: dict[str, float]) -> Markup:
    head = ["#", "token", *(words["title"] for words in quantities.values())]
    lines = []
    for place, token in enumerate(row["tokens"]):
        cells = [cell(place + 1, kind="num"), cell(code(visible(token)))]
        cells += [
            _number(row["values"][quantity], place, quantity, scales[quantity])
            for quantity in quantities
        ]
        lines.append(cells)
    return table(head, lines, numeric=[0, *range(2, len(head))], classes="numbers")


def _number(values: list | None, place: int, quantity: str, largest: float) -> Markup:
    if values is None:
        return cell("none", kind="num dim")
    kind, percent = strength(values[place], quantity, largest)
    return Markup('<td class="num t {}" style="--v:{}%">{}</td>').format(
        kind, percent, number(values[place])
    )


def _flow(flow: dict) -> Markup:
    axes = "; ".join(f"{axis}: {meaning}" for axis, meaning in flow["axes"].items())
    return join(_steps(flow)) + Markup("<p class=note>Axes. {}.</p>").format(axes)


def _steps(flow: dict) -> Iterator[Markup]:
    for place, step in enumerate(flow["steps"], 1):
        yield Markup("<h3>{}. {}: {}</h3><p class=note>{} {}</p>").format(
            place, step["name"], step["title"], facts(step) + ".", code(step["where"])
        )
        rows = [
            [
                cell(code(row["name"]), kind="key", small=many(row)),
                cell(row["by"] or ""),
                cell(shape(row), kind="key"),
                cell(row["dtype"]),
                cell(size(row["bytes"]), kind="num"),
                cell(row["meaning"]),
            ]
            for row in step["tensors"]
        ]
        yield table(["tensor", "given by", "shape", "type", "size", "meaning"], rows, numeric=[4])


def _settings(flow: dict) -> Markup:
    rows = [
        [cell(code(f"ppo.{name}"), kind="key"), cell(str(value))]
        for name, value in flow["settings"].items()
    ]
    rows += [
        [cell(code(name), kind="key"), cell(number(value))]
        for name, value in flow["metrics"].items()
    ]
    return folded("Settings and metrics of this batch", table(["name", "value"], rows))

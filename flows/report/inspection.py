"""The HTML page of `rlhf inspect`: the models, and each stage's first rows token by token."""

from collections.abc import Iterator
from pathlib import Path

from markupsafe import Markup

from flows.report.inspection_text import (
    END,
    LEGEND,
    SCORE,
    marks_of,
    part_of,
    row_heading,
    shown_of,
    shown_path,
    shown_token,
)
from flows.report.page import Section, badge, cell, join, page, table
from rlhf_core.inspection.findings import ModelFinding
from rlhf_core.inspection.shown import InspectedRow, InspectedStage
from tasks.stages.inspected import Inspection

STYLE = Markup("<style>{}</style>").format(
    Markup(Path(__file__).with_name("inspection.css").read_text(encoding="utf-8"))
)
BADGES = {"ok": "good", "note": "warn", "refused": "bad"}


def inspection_page(inspection: Inspection) -> str:
    """Return the page of an inspection."""
    lead = Markup(
        "{}<p>The tokens that each stage reads, made by the stages' own functions. Nothing was"
        " trained.</p>{}"
    ).format(STYLE, _legend())
    return page(f"Tokens of {inspection.recipe}", lead, _sections(inspection))


def _legend() -> Markup:
    kinds = [*LEGEND, ("response end", END), ("response score", SCORE)]
    chips = (
        Markup('<span><span class="tok {}">token<small>id</small></span> {}</span>').format(
            kind, meaning
        )
        for kind, meaning in kinds
    )
    return Markup("<div class=legend>{}</div>").format(join(chips))


def _sections(inspection: Inspection) -> Iterator[Section]:
    for stage in inspection.stages:
        yield stage.stage, _stage(stage)
    for folder, findings in inspection.models.items():
        yield f"Model {shown_path(folder)}", _findings(findings)


def _findings(findings: list[ModelFinding]) -> Markup:
    rows = [
        [cell(badge(one.level, BADGES[one.level])), cell(one.name, kind="key"), cell(one.found)]
        for one in findings
    ]
    return table(["", "what", "found"], rows)


def _stage(stage: InspectedStage) -> Markup:
    about = Markup("<p>{}</p><p class=note>{}</p>").format(stage.meaning, shown_of(stage))
    return about + join(map(_row, stage.rows))


def _row(row: InspectedRow) -> Markup:
    tokens = join(_token(row, place) for place in range(len(row.ids)))
    return Markup("<h3>{}</h3><div class=tokens>{}</div>").format(row_heading(row), tokens)


def _token(row: InspectedRow, place: int) -> Markup:
    marks, part = marks_of(row, place), part_of(row, place)
    classes = [part, *(["end"] if END in marks else []), *(["score"] if SCORE in marks else [])]
    text = shown_token(row.texts[place])
    return Markup('<span class="tok {}" title="{}">{}<small>{}</small></span>').format(
        " ".join(classes), ", ".join([part, *marks]), text, row.ids[place]
    )

"""The page and the terminal text of inspected rows."""

import io
import re
from pathlib import Path

import pytest
from rich.console import Console

from flows.report.inspection import inspection_page
from flows.report.inspection_text import marks_of, part_of, row_heading, shown_token, stage_lines
from rlhf_core.inspection.findings import note, ok
from rlhf_core.inspection.shown import InspectedRow, InspectedStage
from tasks.stages.inspected import Inspection

EVIL = "<script>alert(1)</script>"


@pytest.fixture
def row() -> InspectedRow:
    return InspectedRow(
        "demonstration",
        "3f2a",
        ids=[3, 60, 10, 11, 1],
        texts=["user\n", EVIL, " So", "[dim]", "<eos>"],
        prompt=2,
        trained=[False, False, False, True, True],
        score_at=4,
        ends_at=4,
    )


@pytest.fixture
def stage(row) -> InspectedStage:
    folder = Path("model")
    return InspectedStage("sft", "demonstrations_train", 96, folder, "The loss is here.", (row,))


def test_the_terminal_names_each_part_each_id_and_what_happens_without_colour(stage):
    out = io.StringIO()
    console = Console(file=out, width=200, color_system=None)
    for part in stage_lines(stage):
        console.print(part)
    lines = [line.strip() for line in out.getvalue().splitlines()]
    assert "sft: The loss is here." in lines
    assert "1 of 96 rows of demonstrations_train, tokens of model" in lines
    assert "demonstration of 3f2a: 5 tokens, 2 of them trained" in lines
    assert lines[-3].split(maxsplit=1) == ["prompt", f"user\u21b5[3] {EVIL}[60]"]
    assert lines[-2].split(maxsplit=1) == ["response", "\u00b7So[10]"]
    assert lines[-1].split(maxsplit=1) == [
        "trained",
        "[dim][11] <eos>[1] <- the reply ends <- the score is read",
    ]


def test_parts_and_marks_of_a_token(row):
    parts = [part_of(row, place) for place in range(5)]
    assert parts == ["prompt", "prompt", "response", "trained", "trained"]
    assert marks_of(row, 3) == [] and len(marks_of(row, 4)) == 2
    assert row_heading(row).startswith("demonstration of 3f2a")
    assert shown_token(" a\tb") == "\u00b7a\u21e5b"


def test_the_page_is_one_file_and_escapes_every_token(stage):
    findings = {stage.model: [ok("context", "512 tokens"), note("padding", "none")]}
    text = inspection_page(Inspection("tiny", findings, [stage]))
    assert EVIL not in text and "&lt;script&gt;alert(1)" in text
    assert not re.search(r'(src|href)="?https?:', text)
    assert 'class="tok trained end score"' in text and "<small>60</small>" in text
    assert "512 tokens" in text and "badge warn" in text

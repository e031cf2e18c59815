"""The inspected rows of a recipe for the terminal, and as JSON values."""

from collections.abc import Iterator
from dataclasses import asdict

from rich.console import RenderableType

from flows.cli.tables.model_report import findings_table
from flows.report.inspection_text import shown_path, stage_lines
from tasks.stages.inspected import Inspection


def inspection_json(inspection: Inspection) -> dict[str, object]:
    """Return an inspection as JSON values."""
    return {
        "recipe": inspection.recipe,
        "models": {
            str(folder): [asdict(one) for one in findings]
            for folder, findings in inspection.models.items()
        },
        "stages": [asdict(stage) for stage in inspection.stages],
    }


def inspection_parts(inspection: Inspection) -> Iterator[RenderableType]:
    """Yield the models' findings, and each stage's rows token by token."""
    for folder, findings in inspection.models.items():
        yield findings_table(tuple(findings), title=str(shown_path(folder)))
    for stage in inspection.stages:
        yield from stage_lines(stage)

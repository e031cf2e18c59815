"""Tables of stages and gates, shared by the comparison and the report of a run."""

from collections.abc import Iterable

from markupsafe import Markup

from flows.report.page import badge, cell, code, table
from flows.report.text import duration, interval, key_metric, memory, text_of
from rlhf_core.evidence.item_metrics import is_against_champion
from tasks.analysis.run_evidence import STAGE_ORDER, RunEvidence, StageEvidence

MARKS = {
    "passed": "good",
    "refused": "bad",
    "failed": "bad",
    "overridden": "warn",
    "warning": "warn",
}


def gate_table(decisions: Iterable[dict]) -> Markup:
    """Return a table of gate decisions with their evidence, a row per gate."""
    head = ["stage", "gate", "metric", "value", "required", "n", "verdict"]
    rows = [_gate_cells(decision) for decision in decisions]
    return table(head, rows, numeric=[3, 5]) if rows else Markup("")


def _gate_cells(decision: dict) -> list[Markup]:
    mark, note = _gate_mark(decision)
    low, high = decision.get("interval") or (None, None)
    # without a champion there is nothing to compare with, and the gate passes
    nothing = "-" if decision["passed"] else "missing"
    value = nothing if decision["value"] is None else text_of(decision["value"])
    count = "" if decision.get("n") is None else f"{decision['n']:,}"
    prompts = decision.get("n_prompts")
    shared = f"{prompts:,} prompts" if prompts else ""
    of = decision.get("of", "estimate")
    required = f"{decision['bound']} {decision['threshold']:g}"
    required = required if of == "estimate" else f"{of} {required}"
    return [
        cell(decision["stage"]),
        cell(decision["gate"]),
        cell(code(decision["metric"]), kind="key", small=_baseline(decision)),
        cell(value, kind="num", small=interval(low, high)),
        cell(required, kind="key"),
        cell(count, kind="num", small=shared),
        cell(mark, small=note),
    ]


def _gate_mark(decision: dict) -> tuple[Markup, str]:
    """Return the verdict as a badge, and the sentence below it."""
    if not decision["passed"]:
        is_warning = decision.get("severity") == "warning"
        mark = badge("warning", "warn") if is_warning else badge("refused", "bad")
        return mark, decision["reason"]
    if override := decision.get("override"):
        note = f"to {override['threshold']:g} by {override['by']}: {override['reason']}"
        return badge("overridden", "warn"), note
    return badge("passed", "good"), decision["reason"] if decision["value"] is None else ""


def _baseline(decision: dict) -> str:
    if decision.get("minus"):
        return f"minus {decision['minus']}"
    if decision.get("versus") and not is_against_champion(decision["metric"]):
        return "minus the champion's"
    return ""


def stage_table(runs: list[RunEvidence]) -> Markup:
    """Return a table of the stages, a column per run: verdict and time."""
    rows = []
    for stage in STAGE_ORDER:
        found = [run.stages.get(stage) for run in runs]
        if any(found):
            rows.append([cell(stage), *(_stage_cell(one) for one in found)])
    return table(["stage", *(run.name for run in runs)], rows) if rows else Markup("")


def one_run_stages(run: RunEvidence) -> Markup:
    """Return a table of one run's stages: verdict, time, memory, headline metric."""
    rows = [_stage_cells(run.stages[name]) for name in STAGE_ORDER if name in run.stages]
    head = ["stage", "gates", "took", "peak memory", "result"]
    return table(head, rows, numeric=[2, 3]) if rows else Markup("")


def _stage_cells(stage: StageEvidence) -> list[Markup]:
    seconds, peak = stage.costs.get("seconds"), stage.costs.get("peak_memory_mib")
    note = "made by an earlier run" if stage.cached else ""
    return [
        cell(stage.stage),
        cell(_mark(stage)),
        cell("" if seconds is None else duration(seconds), kind="num", small=note),
        cell("" if peak is None else memory(peak), kind="num"),
        cell(key_metric(stage.stage, stage.result.get("metrics", {})), small=stage.error or ""),
    ]


def _mark(stage: StageEvidence) -> Markup:
    return badge(stage.verdict, MARKS.get(stage.verdict, ""))


def _stage_cell(stage: StageEvidence | None) -> Markup:
    if stage is None:
        return cell(Markup("<span class=dim>not run</span>"))
    seconds = stage.costs.get("seconds")
    if seconds is None:
        return cell(_mark(stage))
    earlier = " (by an earlier run)" if stage.cached else ""
    return cell(_mark(stage), small=duration(seconds) + earlier)

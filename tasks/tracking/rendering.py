"""What MLflow and Prefect are shown of a run, made from its files: parameters, Markdown, learning
curves.
"""

import json
import math
import re
from pathlib import Path

from matplotlib.figure import Figure

from rlhf_core.gates.decide import Decision
from rlhf_core.metrics import METRICS
from rlhf_core.rundir import StageResult
from rlhf_core.stage_catalogue import STAGES
from tasks.records.run_record import Record, StageRecord

PARAM_LENGTH = 5900  # MLflow cuts a value at 6,000 characters
CURVES = {name: stage.curves for name, stage in STAGES.items() if stage.curves}


def flatten(values: dict, prefix: str = "") -> dict[str, str]:
    """{'a': {'b': 1}} -> {'a.b': '1'}, values cut below MLflow's limit."""
    flat = {}
    for key, value in values.items():
        if isinstance(value, dict) and value:
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            text = value if isinstance(value, str) else json.dumps(value)
            flat[f"{prefix}{key}"] = text[:PARAM_LENGTH]
    return flat


def verdict_table(decisions: list[Decision]) -> str:
    """A Markdown table, one row a gate, with the evidence."""
    head = (
        "| stage | gate | metric | value | interval | n | required | verdict"
        " |\n|---|---|---|---|---|---|---|---|"
    )
    return "\n".join([head, *map(_verdict_row, decisions)])


def short_verdict_table(decisions: list[Decision]) -> str:
    """The same where there is little room: a form, which cuts off its last column, a description of
    limited length.
    """
    rows = [
        f"| {d.stage}.{d.gate} | {_verdict(d)} | {value_text(d)} | {d.rule} |" for d in decisions
    ]
    return "\n".join(["| gate | verdict | value | required |\n|---|---|---|---|", *rows])


def _verdict(decision: Decision) -> str:
    used = decision.override
    return f"**{decision.verdict}**" + (
        f" to {used.threshold:g} by {used.by}: {used.reason}" if used else ""
    )


def _verdict_row(decision: Decision) -> str:
    cells = [
        decision.stage,
        decision.gate,
        decision.quantity,
        value_text(decision),
        interval_text(decision),
        decision.n or "",
    ]
    return "| " + " | ".join(map(str, [*cells, decision.rule, _verdict(decision)])) + " |"


def spaced(text: str) -> str:
    """Markdown whose tables MLflow's page can show: it leaves no gap between columns, nor between a
    table and what follows.

    Each column's longest cell gets one, and each table an empty line.
    """
    lines = text.split("\n")
    start = None
    for end, line in enumerate([*lines, ""]):
        if line.startswith("| ") and start is None:
            start = end
        elif not line.startswith("|") and start is not None:
            lines[start:end] = _spaced_table(lines[start:end])
            start = None
    return re.sub(r"(?m)^(\|.*\|)\n\n(?=.)", r"\1\n\n&ensp;\n\n", "\n".join(lines))


def _spaced_table(lines: list[str]) -> list[str]:
    rows = [re.split(r"(?<!\\)\|", line)[1:-1] for line in lines]
    texts = [row for row in rows if len(row) == len(rows[0]) and set(row[0].strip()) != {"-"}]
    for column in range(len(rows[0]) - 1):
        longest = max(texts, key=lambda row: len(row[column].strip()))
        longest[column] = f" {longest[column].strip()}&ensp; "
    return ["|" + "|".join(row) + "|" for row in rows]


def value_text(decision: Decision) -> str:
    """The estimate; 'missing', or '-' where there was nothing to compare with."""
    if decision.value is None:
        return "-" if decision.passed else "missing"
    return f"{decision.value:.4g}"


def interval_text(decision: Decision) -> str:
    """'0.72 to 0.79 (95%)', or '' without an interval."""
    if decision.interval is None:
        return ""
    low, high = decision.interval
    return f"{low:.3g} to {high:.3g} ({100 * (decision.confidence or 0.95):g}%)"


def pipeline_note(record: Record) -> str:
    """The parent run's description."""
    lines = [f"**{record.name}**: {record.status.lower()}"]
    if description := record.recipe.get("description"):
        lines.append(description)
    if record.error:
        lines.append(f"> {record.error.splitlines()[0]}")
    if decisions := [decision for stage in record.stages for decision in stage.decisions]:
        lines.append(verdict_table(decisions))
    if record.approval:
        lines.append(f"Approval: {record.approval.sentence}.")
    if record.promotion:
        lines.append(f"Promotion: {record.promotion['reason']}")
    return "\n\n".join(lines)


def stage_note(stage: StageRecord) -> str:
    """A stage run's description."""
    lines = [
        f"Stage **{stage.stage}**{' (cached: an earlier run had made it)' if stage.cached else ''}:"
        f" {stage.verdict}"
    ]
    if stage.error:
        lines.append(f"> {stage.error.splitlines()[0]}")
    if stage.decisions:
        lines.append(verdict_table(stage.decisions))
    return "\n\n".join(lines)


def metric_units() -> dict:
    """Name -> unit and meaning, of every metric; plus what the suffixes of evidence say."""
    suffixes = {
        ".n": {"unit": "rows", "meaning": "Sample size behind the metric"},
        ".low": {"unit": "as the metric", "meaning": "Lower end of its 95% interval"},
        ".high": {"unit": "as the metric", "meaning": "Upper end of its 95% interval"},
    }
    costs = {
        "cost/<stage>_seconds": {"unit": "s", "meaning": "Wall-clock time of the stage's process"},
        "cost/<stage>_peak_memory_mib": {
            "unit": "MiB",
            "meaning": "Largest sample of system/stage_memory_mib",
        },
        "cost/<stage>_peak_gpu_memory_mib": {
            "unit": "MiB",
            "meaning": "Largest sample of system/stage_gpu_memory_mib",
        },
    }
    return {name: metric._asdict() for name, metric in METRICS.items()} | suffixes | costs


def final_metrics(result: StageResult) -> dict[str, float]:
    """A result's metrics with their evidence: '<metric>.n', '.low' and '.high'."""
    values = dict(result.metrics) | {
        f"{name}.n": float(count) for name, count in result.counts.items()
    }
    for name, (low, high) in result.intervals.items():
        values |= {f"{name}.low": low, f"{name}.high": high}
    return values


def curves(stage: str, lines: list[dict]) -> Figure | None:
    """One figure with a panel for each main metric of the stage; None when nothing was logged step
    by step.
    """
    logged = {name for line in lines for name in line["metrics"]}
    names = [name for name in CURVES.get(stage, sorted(logged)[:9]) if name in logged]
    if not names or len(lines) < 2:
        return None
    columns = min(3, len(names))
    rows = math.ceil(len(names) / columns)
    figure = Figure(figsize=(4.2 * columns, 2.8 * rows), layout="constrained")
    for axes, name in zip(figure.subplots(rows, columns, squeeze=False).flat, names, strict=False):
        points = [
            (line["step"], line["metrics"][name]) for line in lines if name in line["metrics"]
        ]
        axes.plot(*zip(*points, strict=True), linewidth=1.4)
        axes.set(title=name, xlabel="step", ylabel=METRICS[name].unit if name in METRICS else "")
        axes.grid(alpha=0.3)
    for axes in figure.axes[len(names) :]:
        axes.remove()
    return figure


def table_columns(path: Path) -> dict[str, list]:
    """A *.table.json as columns: {columns, data}, a list of rows, or columns already."""
    value = json.loads(path.read_text())
    if isinstance(value, dict) and set(value) == {"columns", "data"}:
        return {
            name: [row[index] for row in value["data"]]
            for index, name in enumerate(value["columns"])
        }
    if isinstance(value, list):
        names = list(dict.fromkeys(name for row in value for name in row))
        return {name: [row.get(name) for row in value] for name in names}
    return value


def as_json(value: object) -> str:
    """Canonical JSON, for a tag."""
    return json.dumps(value, sort_keys=True, ensure_ascii=False)

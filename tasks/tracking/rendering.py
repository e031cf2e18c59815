"""Parameters and Markdown of a run for the pages of MLflow and Prefect."""

import json
import re
from pathlib import Path

from rlhf_core.gates.decide import Decision
from rlhf_core.metrics import METRICS
from rlhf_core.rundir import StageResult
from tasks.records.run_record import Record, StageRecord

PARAM_LENGTH = 5900  # MLflow cuts a value at 6,000 characters


def flatten(values: dict, prefix: str = "") -> dict[str, str]:
    """Turn {'a': {'b': 1}} into {'a.b': '1'}; cut values below MLflow's limit."""
    flat: dict[str, str] = {}
    for key, value in values.items():
        if isinstance(value, dict) and value:
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            text = value if isinstance(value, str) else json.dumps(value)
            flat[f"{prefix}{key}"] = text[:PARAM_LENGTH]
    return flat


def columns(record: Record, user: str) -> dict[str, str]:
    """Return the tags that fill the columns Source, User and Version of MLflow's list of runs."""
    tags = {
        "mlflow.user": user,
        "mlflow.source.name": f"rlhf run {record.recipe['name']}",
        "mlflow.source.type": "LOCAL",  # MLflow's word for a program
    }
    is_commit = re.fullmatch("[0-9a-f]{40}", record.commit)
    return tags | ({"mlflow.source.git.commit": record.commit} if is_commit else {})


def verdict_table(decisions: list[Decision]) -> str:
    """Return a Markdown table with the evidence, one row per gate."""
    head = (
        "| stage | gate | metric | value | interval | n | required | verdict"
        " |\n|---|---|---|---|---|---|---|---|"
    )
    return "\n".join([head, *map(_verdict_row, decisions)])


def short_verdict_table(decisions: list[Decision]) -> str:
    """Return the table with fewer columns, for places with little room.

    A form cuts off the last column, and a description has a limited length.
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
        f"{decision.n or ''}" + (f" of {decision.n_prompts} prompts" if decision.n_prompts else ""),
    ]
    return "| " + " | ".join(map(str, [*cells, decision.rule, _verdict(decision)])) + " |"


def spaced(text: str) -> str:
    """Add gaps to the tables of a Markdown text, because MLflow's page shows them without.

    Each column's longest cell gets a gap, and each table an empty line after it.
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
    """Return the estimate; 'missing', or '-' where there was nothing to compare with."""
    if decision.value is None:
        return "-" if decision.passed else "missing"
    return f"{decision.value:.4g}"


def interval_text(decision: Decision) -> str:
    """Return the interval as in '0.72 to 0.79 (95%)', '' without one."""
    if decision.interval is None:
        return ""
    low, high = decision.interval
    return f"{low:.3g} to {high:.3g} ({100 * (decision.confidence or 0.95):g}%)"


def pipeline_note(record: Record) -> str:
    """Return the description of the pipeline's run, in Markdown."""
    lines = [f"**{record.name}**: {record.status.lower()}"]
    if description := record.recipe.get("description"):
        lines.append(description)
    if record.error:
        lines.append(f"> {record.error.splitlines()[0]}")
    if record.verdicts:
        lines.append(verdict_table(record.verdicts))
    if record.approval:
        lines.append(f"Approval: {record.approval.sentence}.")
    if record.promotion:
        lines.append(f"Promotion: {record.promotion.reason}")
    return "\n\n".join(lines)


def stage_note(stage: StageRecord) -> str:
    """Return the description of a stage's run, in Markdown."""
    lines = [
        f"Stage **{stage.stage}**{' (cached: an earlier run had made it)' if stage.cached else ''}:"
        f" {stage.verdict}"
    ]
    if stage.error:
        lines.append(f"> {stage.error.splitlines()[0]}")
    if stage.heldout_check:
        lines.append(f"Held-out prompts: {stage.heldout_check.sentence}.")
    if stage.verdicts:
        lines.append(verdict_table(stage.verdicts))
    return "\n\n".join(lines)


def metric_units() -> dict:
    """Map every metric, and every suffix of evidence, to its unit and meaning."""
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
        "cost/<stage>_hours": {
            "unit": "h",
            "meaning": "Wall-clock time of the stage's processes in this run; absent for a cached"
            " stage",
        },
        "cost/<stage>_cpu_hours": {
            "unit": "h",
            "meaning": "Hours of one core at work in this run; absent for a cached stage",
        },
        "cost/<stage>_gpu_hours": {
            "unit": "h",
            "meaning": "Hours of one GPU reserved in this run; absent for a cached stage",
        },
        "cost/<stage>_gpu_kwh": {
            "unit": "kWh",
            "meaning": "Energy of the GPUs that the stage might use, in this run; absent if not"
            " measured",
        },
        "cost/<stage>_cpu_kwh": {
            "unit": "kWh",
            "meaning": "Energy of the machine's processors meanwhile; absent if not measured",
        },
        "cost/<stage>_forecast_seconds": {
            "unit": "s",
            "meaning": "Time of the whole stage, as foreseen after its first steps",
        },
        "cost/<stage>_forecast_money": {
            "unit": "currency",
            "meaning": "Price of the whole stage, as foreseen after its first steps",
        },
        "cost/<stage>_peak_gpu_memory_mib": {
            "unit": "MiB",
            "meaning": "Largest sample of system/stage_gpu_memory_mib",
        },
    }
    return {name: metric._asdict() for name, metric in METRICS.items()} | suffixes | costs


def final_metrics(result: StageResult) -> dict[str, float]:
    """Return a result's metrics with their evidence: '<metric>.n', '.low' and '.high'."""
    values = dict(result.metrics) | {
        f"{name}.n": float(count) for name, count in result.counts.items()
    }
    for name, (low, high) in result.intervals.items():
        values |= {f"{name}.low": low, f"{name}.high": high}
    return values


def table_columns(path: Path) -> dict[str, list]:
    """Read a *.table.json as columns: from {columns, data}, a list of rows, or columns."""
    value = json.loads(path.read_text(encoding="utf-8"))
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
    """Return canonical JSON, for a tag."""
    return json.dumps(value, sort_keys=True, ensure_ascii=False)

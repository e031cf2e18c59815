"""The model card of a registered version, in Markdown.

It says what the model is, on what data it was made, how good it is, who let it pass, and how to
load it.
"""

import html
import json
import re
from pathlib import Path

from rlhf_core.config import Recipe
from rlhf_core.config.decidable import measured_kinds
from rlhf_core.evidence.items import read_items
from rlhf_core.gates.decide import Decision
from rlhf_core.metrics import METRICS
from rlhf_core.modeling.requirements import read_config
from rlhf_core.rundir import Artifact, StageResult
from rlhf_core.stage_catalogue import REWARD, STAGES, VALIDATE, Stage
from tasks.execution.stage_calls import ask
from tasks.records.provenance import short_commit
from tasks.records.run_record import ModelKind, Record
from tasks.run_context import RunContext, StageOutput
from tasks.tracking import rendering

DESCRIPTION_LENGTH = 5000  # characters of a version's description: the limit of MLflow's column
LEFT_OUT_FIRST = ("Training", "Lineage", "Samples", "Data")
SAMPLES, CELL, BRIEF_CELL = 3, 160, 100  # rows of a table, characters of a sample in it
_KNOWN = "rlhf_core.modeling.requirements:has_sequence_classifier"


def card(
    context: RunContext,
    output: StageOutput,
    kind: ModelKind,
    decisions: list[Decision],
    *,
    brief: bool = False,
) -> str:
    """Return the card of the policy or the reward model; model output in it is escaped.

    output: of the last stage that measured the model. brief: for a version's description, whose
    length is limited: verdicts without their intervals, shorter samples.
    """
    maker = REWARD if kind == "reward" else STAGES[context.recipe.align]
    model = f"{context.recipe.registry.name}-{kind}"
    table_of = rendering.short_verdict_table if brief else rendering.verdict_table
    sections = {
        "Metrics": _metrics(output, {decision.metric for decision in decisions}, maker),
        "Gates": table_of(decisions),
        "Samples": _samples(context.record, output, kind, BRIEF_CELL if brief else CELL),
        "Data": _data(output),
        "Held-out prompts": _leaks(context.record),
        "How to load": _loading(context.recipe, model, kind, output.artifacts[kind].path),
        "Training": _training(context.recipe, maker),
        "Lineage": _lineage(context, output, maker),
    }
    # MLflow's page has the name on top, and its list shows the first line
    title = [] if brief else [f"# {model}"]
    approval = _approval(context.record) if kind == "policy" else []
    parts = [*title, _summary(context.recipe, kind), *approval, *_overrides(decisions)]
    return (
        "\n\n".join(
            [*parts, *(f"## {title}\n\n{text}" for title, text in sections.items() if text)]
        )
        + "\n"
    )


def description(text: str, limit: int = DESCRIPTION_LENGTH) -> str:
    """Cut a card to `limit` characters by whole sections.

    Sections that MLflow shows elsewhere too go first.
    """
    head, *sections = text.split("\n\n## ")
    gone: list[str] = []
    while len(result := _joined(head, sections, gone)) > limit:
        titles = [section.partition("\n")[0] for section in sections]
        doomed = next(
            (title for title in LEFT_OUT_FIRST if title in titles), titles[-1] if titles else None
        )
        if doomed is None:
            return result[: limit - 1] + "…"
        sections.pop(titles.index(doomed))
        gone.append(doomed)
    return result


def _joined(head: str, sections: list[str], gone: list[str]) -> str:
    note = [f"{', '.join(gone)}: see README.md among this version's files."] if gone else []
    return "\n\n".join([head, *(f"## {section.rstrip()}" for section in sections), *note]) + "\n"


def cell(value: object, limit: int = CELL) -> str:
    """Return any text as the content of one table cell.

    It is one line, cut, and nothing in it is read as Markdown, HTML or a link.
    """
    text = " ".join(str(value).split())
    text = text if len(text) <= limit else text[: limit - 1] + "…"
    text = re.sub(r"([\\`*_\[\]#|~])", r"\\\1", html.escape(text, quote=False))
    return text.replace("://", "&#58;//").replace("www.", "www&#46;").replace("@", "&#64;")


def table(head: list[str], rows: list[list]) -> str:
    """Return a Markdown table of cells that are escaped already; '' without rows."""
    lines = [head, ["---"] * len(head), *rows] if rows else []
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def _summary(recipe: Recipe, kind: ModelKind) -> str:
    base = cell(recipe.model.base)
    about = f" ({cell(recipe.description)})" if recipe.description else ""
    labels = _labels(recipe, kind)
    if kind == "policy":
        how = {
            "ppo": f"with PPO from an SFT model of {base}, against a reward model",
            "dpo": f"with DPO from an SFT model of {base}, on comparisons",
            "kto": f"with KTO from an SFT model of {base}, on {labels}",
        }[recipe.align]
        made = f"A policy: conversations in, replies out. Trained {how}"
    else:
        how = (
            f"Given, not trained here; measured on held-out {labels}"
            if recipe.model.reward
            else f"Trained on {labels} from an SFT model of {base}"
        )
        made = f"A reward model: conversations in, scores out. {how}"
    return f"{made}. Recipe **{cell(recipe.name)}**{about}."


def _labels(recipe: Recipe, kind: ModelKind) -> str:
    """Return the kinds of labelled rows that a model learns from, in words."""
    kinds = measured_kinds(recipe, "reward" if kind == "reward" else "kto")
    return " and ".join(kinds).replace("feedback", "replies with thumbs up or down")


def _approval(record: Record) -> list[str]:
    return [f"Sign-off: {cell(record.approval.sentence, 500)}."] if record.approval else []


def _overrides(decisions: list[Decision]) -> list[str]:
    used = [(f"{d.stage}.{d.gate}", d.override) for d in decisions if d.override]
    lines = [
        f"- {cell(gate)} to {o.threshold:g} by {cell(o.by)}: {cell(o.reason, 500)}"
        for gate, o in used
    ]
    return (
        ["\n".join(["**Passed only because gates were overridden:**", "", *lines])] if used else []
    )


def _metrics(output: StageOutput, gated: set[str], maker: Stage) -> str:
    """Show what has an interval, what a gate looks at, and the headline of each stage."""
    rows = []
    for stage in dict.fromkeys((maker, output.stage)):
        if result := output.results.get(stage.name):
            shown = {*gated, *result.intervals, stage.headline_of(result.metrics)}
            wanted = [name for name in sorted(result.metrics) if name in shown]
            rows += [
                _metric_row(metric, result) for metric in wanted if not _is_bound(metric, result)
            ]
    return table(["metric", "value", "95% interval", "n", "unit"], rows)


def _is_bound(metric: str, result: StageResult) -> bool:
    """Return True for the end of another metric's interval, which stands in that one's row."""
    return metric.removesuffix("_lower").removesuffix("_upper") in set(result.metrics) - {metric}


def _metric_row(metric: str, result: StageResult) -> list:
    interval = result.intervals.get(metric)
    between = f"{interval[0]:.3g} to {interval[1]:.3g}" if interval else ""
    unit = METRICS[metric].unit if metric in METRICS else ""
    return [metric, f"{result.metrics[metric]:.4g}", between, result.counts.get(metric, ""), unit]


def _samples(record: Record, output: StageOutput, kind: ModelKind, limit: int) -> str:
    """Show the first held-out items of the stage that measured the model."""
    entry, result = record.stage(output.stage.name), output.results.get(output.stage.name)
    if entry and result and kind == "reward" and "items" not in result.files:
        return _labelled_samples(entry.run_dir, result, limit)
    if not entry or not result or "items" not in result.files:
        return ""
    items = read_items(entry.run_dir / result.files["items"])
    first, second = ("sft", "policy") if kind == "policy" else ("chosen", "rejected")
    reply = "_reply" if kind == "policy" else ""
    columns = ["prompt", f"{first}{reply}", f"{first}_score", f"{second}{reply}", f"{second}_score"]
    rows = zip(*(items[column][:SAMPLES] for column in columns), strict=True)
    return table(
        ["prompt", first, "score", second, "score"],
        [
            [f"{value:.2f}" if isinstance(value, float) else cell(value, limit) for value in row]
            for row in rows
        ],
    )


def _labelled_samples(run_dir: Path, result: StageResult, limit: int) -> str:
    """Show the first held-out replies of a reward model that was measured on feedback alone."""
    if "label_items" not in result.files:
        return ""
    items, names = read_items(run_dir / result.files["label_items"]), ["prompt", "reply", "score"]
    rows = zip(*(items[name][:SAMPLES] for name in names), strict=True)
    return table(names, [[cell(p, limit), cell(r, limit), f"{s:.2f}"] for p, r, s in rows])


def _data(output: StageOutput) -> str:
    validated = output.results.get(VALIDATE.name)
    measured = validated.metrics if validated else {}
    splits = [name for name in sorted(output.artifacts) if name.endswith(("_train", "_heldout"))]
    rows = {name: measured.get(f"data/{name}") for name in splits}
    counts = {name: "" if count is None else f"{count:,.0f}" for name, count in rows.items()}
    return table(
        ["split", "rows", "sha256"],
        [[name, counts[name], f"`{output.artifacts[name].digest[:16]}`"] for name in splits],
    )


def _leaks(record: Record) -> str:
    """Return what the searches for leaked held-out prompts found, a line per stage."""
    checks = [(stage.stage, stage.heldout_check) for stage in record.stages if stage.heldout_check]
    return "\n".join(f"- {stage}: {check.sentence}." for stage, check in checks)


def _training(recipe: Recipe, maker: Stage) -> str:
    values = {"base": recipe.model.base, "dtype": recipe.model.dtype, "seed": str(recipe.seed)}
    values |= rendering.flatten(
        recipe.section(maker.name).model_dump(mode="json", exclude={"gate"})
    )
    return table(["setting", "value"], [[f"{key}", cell(value)] for key, value in values.items()])


def _lineage(context: RunContext, output: StageOutput, maker: Stage) -> str:
    record, artifacts = context.record, output.artifacts
    rows = [
        [f"{name} model", _version(context, artifacts[name], name)]
        for name in maker.parents
        if name in artifacts
    ]
    if maker != REWARD and "champion" in artifacts:
        rows.append(["compared with champion", f"`{artifacts['champion'].digest[:16]}`"])
    link = context.tracker.link()
    changes = " with uncommitted changes" if record.dirty else ""
    rows += [
        ["pipeline run", f"[{record.name}]({link})" if link else record.name],
        ["stage run", f"`{maker.name}-{output.results[maker.name].digest[:12]}`"],
        ["commit", f"`{short_commit(record.commit, 12)}`{changes}"],
    ]
    return table(["what", "which"], rows)


def _version(context: RunContext, artifact: Artifact, name: str) -> str:
    """Name a model by its bytes, and by its version where the registry has one."""
    model = f"{context.recipe.registry.registered_as}-{name}"
    known = {
        (item.model, item.artifact.digest): item.version for item in context.record.registrations
    }
    version = known.get((model, artifact.digest))
    return (f"{model} version {version}, " if version else "") + f"`{artifact.digest[:16]}`"


def _in_transformers(auto_class: str) -> str:
    return f"transformers.{auto_class}.from_pretrained(folder)"


def _loading(recipe: Recipe, model: str, kind: ModelKind, folder: Path) -> str:
    uri, sampling = f"models:/{model}@champion", recipe.evaluate.sampling
    params = {"temperature": sampling.temperature, "max_tokens": sampling.max_new_tokens}
    if kind == "policy":
        plain = _in_transformers("AutoModelForCausalLM")
        flags = "--generation-config vllm"
        note = " Replies are greedy unless asked otherwise; the metrics are of sampled replies."
        example = (
            'model.predict({"messages": [{"role": "user", "content": "..."}]},'
            f" params={json.dumps(params)})"
        )
    else:
        flags, note = "--runner pooling", ""
        plain = _in_transformers("AutoModelForSequenceClassification")
        if not ask(_KNOWN, read_config(folder).get("model_type", "")):
            plain = "# transformers has no sequence classifier of this family; MLflow loads it"
        example = (
            'model.predict([{"prompt": "...", "chosen": "...", "rejected": "..."}])'
            '  # or {"messages": [...]}'
        )
    serve = f"--served-model-name {model} --dtype {recipe.model.dtype} {flags}"
    return f"""`champion` is an alias; a version by its number is `models:/{model}/1`.{note}

```python
model = mlflow.pyfunc.load_model("{uri}")
{example}
folder = mlflow.artifacts.download_artifacts("{uri}") + "/artifacts/model"
{plain}
```
```sh
mlflow models serve -m {uri} --env-manager local --port 5001
mlflow artifacts download -u {uri} -d {model}
python -m vllm.entrypoints.openai.api_server --model {model}/artifacts/model {serve}
```"""

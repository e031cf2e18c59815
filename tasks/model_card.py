"""The model card of a registered version, Markdown: what it is, on what data, how good, who let it
pass, how to load it.
"""

import html
import json
import re

from rlhf_core.config import ALIGNMENTS
from rlhf_core.evidence.items import read_items
from rlhf_core.gates.decide import Decision
from rlhf_core.metrics import METRICS
from rlhf_core.rundir import StageResult
from tasks.run_context import STAGES, Session
from tasks.tracking import rendering

DESCRIPTION_LENGTH = (
    5000  # characters of a version's description; MLflow's SQL column holds no more
)
LEFT_OUT_FIRST = ("Training", "Lineage", "Samples", "Data")
# stage -> models that its model was made from
PARENTS = {"reward": ("base", "sft"), "ppo": ("base", "sft", "reward"), "dpo": ("base", "sft")}
SAMPLES = 3
CELL, BRIEF_CELL = 160, 100  # characters of a sample in a table


def card(
    session: Session, name: str, stage: str, decisions: list[Decision], *, brief: bool = False
) -> str:
    """The card of model `name` ('policy' or 'reward') that `stage` made; model output in it is
    escaped.

    brief: for a version's description, whose length is limited: verdicts without their intervals,
    shorter samples.
    """
    model = f"{session.recipe.registry.name}-{name}"
    sections = {
        "Metrics": _metrics(session, {decision.metric for decision in decisions}, stage),
        "Gates": (
            rendering.short_verdict_table(decisions)
            if brief
            else rendering.verdict_table(decisions)
        ),
        "Samples": _samples(session, name, BRIEF_CELL if brief else CELL),
        "Data": _data(session),
        "How to load": _loading(session, model, name),
        "Training": _training(session, stage),
        "Lineage": _lineage(session, stage),
    }
    title = (
        [] if brief else [f"# {model}"]
    )  # MLflow's page has the name on top, and its list shows the first line
    parts = [*title, _what(session, name), *_sign_off(session, name), *_overrides(decisions)]
    return (
        "\n\n".join(
            [*parts, *(f"## {title}\n\n{text}" for title, text in sections.items() if text)]
        )
        + "\n"
    )


def description(text: str, limit: int = DESCRIPTION_LENGTH) -> str:
    """A card cut to `limit` characters by whole sections, those first that MLflow shows elsewhere
    too.
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
    """Any text as the content of one table cell: one line, cut, nothing in it is read as Markdown,
    HTML or a link.
    """
    text = " ".join(str(value).split())
    text = text if len(text) <= limit else text[: limit - 1] + "…"
    text = re.sub(r"([\\`*_\[\]#|~])", r"\\\1", html.escape(text, quote=False))
    return text.replace("://", "&#58;//").replace("www.", "www&#46;").replace("@", "&#64;")


def table(head: list[str], rows: list[list]) -> str:
    """A Markdown table; cells are text that is escaped already. Empty without rows."""
    lines = [head, ["---"] * len(head), *rows] if rows else []
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def _what(session: Session, name: str) -> str:
    recipe = session.recipe
    base = cell(recipe.model.base)
    about = f" ({cell(recipe.description)})" if recipe.description else ""
    if name == "policy":
        how = {"ppo": "with PPO {}, against a reward model", "dpo": "with DPO {}, on comparisons"}[
            recipe.align
        ]
        made = (
            "A policy: conversations in, replies out. Trained"
            f" {how.format(f'from an SFT model of {base}')}"
        )
    elif recipe.model.reward:
        made = (
            "A reward model: conversations in, scores out. Given, not trained here; measured on"
            " held-out comparisons"
        )
    else:
        made = (
            "A reward model: conversations in, scores out. Trained on comparisons from an SFT"
            f" model of {base}"
        )
    return f"{made}. Recipe **{cell(recipe.name)}**{about}."


def _sign_off(session: Session, name: str) -> list[str]:
    return (
        [f"Sign-off: {cell(session.approval.sentence, 500)}."]
        if session.approval and name == "policy"
        else []
    )


def _overrides(decisions: list[Decision]) -> list[str]:
    used = [(f"{d.stage}.{d.gate}", d.override) for d in decisions if d.override]
    lines = [
        f"- {cell(gate)} to {o.threshold:g} by {cell(o.by)}: {cell(o.reason, 500)}"
        for gate, o in used
    ]
    return (
        ["\n".join(["**Passed only because gates were overridden:**", "", *lines])] if used else []
    )


def _metrics(session: Session, gated: set[str], stage: str) -> str:
    """What has an interval, what a gate looks at, and the stage's own metric."""
    rows = []
    for name in dict.fromkeys((stage, "evaluate" if stage in ALIGNMENTS else stage)):
        if result := session.results.get(name):
            wanted = (gated | set(result.intervals) | {STAGES[name].METRIC}) & set(result.metrics)
            rows += [
                _metric_row(metric, result)
                for metric in sorted(wanted)
                if not _is_bound(metric, result)
            ]
    return table(["metric", "value", "95% interval", "n", "unit"], rows)


def _is_bound(metric: str, result: StageResult) -> bool:
    """Whether a metric is the end of another one's interval, which stands in that one's row."""
    return metric.removesuffix("_lower").removesuffix("_upper") in set(result.metrics) - {metric}


def _metric_row(metric: str, result: StageResult) -> list[str]:
    interval = result.intervals.get(metric)
    between = f"{interval[0]:.3g} to {interval[1]:.3g}" if interval else ""
    unit = METRICS[metric].unit if metric in METRICS else ""
    return [metric, f"{result.metrics[metric]:.4g}", between, result.counts.get(metric, ""), unit]


def _samples(session: Session, name: str, limit: int) -> str:
    """The first held-out items of the stage that measured the model, whatever they are; none from
    an older run.
    """
    stage, (first, second) = {
        "policy": ("evaluate", ("sft", "policy")),
        "reward": ("reward", ("chosen", "rejected")),
    }[name]
    entry, result = session.tracker.record.stage(stage), session.results.get(stage)
    if not entry or not result or "items" not in result.files:
        return ""
    items = read_items(entry.run_dir / result.files["items"])
    reply = "_reply" if name == "policy" else ""
    columns = ["prompt", f"{first}{reply}", f"{first}_score", f"{second}{reply}", f"{second}_score"]
    rows = zip(*(items[column][:SAMPLES] for column in columns), strict=True)
    head = ["prompt", first, "score", second, "score"]
    return table(
        head,
        [
            [f"{value:.2f}" if isinstance(value, float) else cell(value, limit) for value in row]
            for row in rows
        ],
    )


def _data(session: Session) -> str:
    measured = session.results["validate"].metrics if "validate" in session.results else {}
    splits = [name for name in sorted(session.have) if name.endswith(("_train", "_heldout"))]
    rows = {name: measured.get(f"data/{name}") for name in splits}
    counts = {name: "" if count is None else f"{count:,.0f}" for name, count in rows.items()}
    return table(
        ["split", "rows", "sha256"],
        [[name, counts[name], f"`{session.have[name].digest[:16]}`"] for name in splits],
    )


def _training(session: Session, stage: str) -> str:
    recipe = session.recipe
    values = {"base": recipe.model.base, "dtype": recipe.model.dtype, "seed": str(recipe.seed)}
    values |= rendering.flatten(getattr(recipe, stage).model_dump(mode="json", exclude={"gate"}))
    return table(["setting", "value"], [[f"{key}", cell(value)] for key, value in values.items()])


def _lineage(session: Session, stage: str) -> str:
    record = session.tracker.record
    rows = [
        [f"{name} model", _version(session, name)]
        for name in PARENTS[stage]
        if name in session.have
    ]
    if stage in ALIGNMENTS and "champion" in session.have:
        rows.append(["compared with champion", f"`{session.have['champion'].digest[:16]}`"])
    link = session.tracker.link()
    rows += [
        ["pipeline run", f"[{record.name}]({link})" if link else record.name],
        ["stage run", f"`{stage}-{session.results[stage].digest[:12]}`"],
        ["commit", f"`{record.commit[:12]}`{' with uncommitted changes' if record.dirty else ''}"],
    ]
    return table(["what", "which"], rows)


def _version(session: Session, name: str) -> str:
    """A model by its bytes, and by its version where the registry has one."""
    digest = session.have[name].digest
    model = f"{session.recipe.registry.name}-{name}"
    known = {
        (item.model, item.artifact.digest): item.version
        for item in session.tracker.record.registrations
    }
    version = known.get((model, digest))
    return (f"{model} version {version}, " if version else "") + f"`{digest[:16]}`"


def _loading(session: Session, model: str, name: str) -> str:
    uri, sampling = f"models:/{model}@champion", session.recipe.evaluate.sampling
    params = {"temperature": sampling.temperature, "max_tokens": sampling.max_new_tokens}
    example, note, kind, serve = {
        "policy": (
            (
                'model.predict({"messages": [{"role": "user", "content": "..."}]},'
                f" params={json.dumps(params)})"
            ),
            (
                " Replies are greedy unless asked otherwise; the metrics are of replies sampled as"
                " below."
            ),
            "AutoModelForCausalLM",
            f"--dtype {session.recipe.model.dtype} --generation-config vllm",
        ),
        "reward": (
            (
                'model.predict([{"prompt": "...", "chosen": "...", "rejected": "..."}])  # or'
                ' {"messages": [...]}'
            ),
            "",
            "AutoModelForSequenceClassification",
            f"--dtype {session.recipe.model.dtype} --runner pooling",
        ),
    }[name]
    return f"""`champion` is an alias; a version by its number is `models:/{model}/1`.{note}

```python
model = mlflow.pyfunc.load_model("{uri}")
{example}
folder = mlflow.artifacts.download_artifacts("{uri}") + "/artifacts/model"
transformers.{kind}.from_pretrained(folder)
```
```sh
mlflow models serve -m {uri} --env-manager local --port 5001
mlflow artifacts download -u {uri} -d {model}
python -m vllm.entrypoints.openai.api_server --model {model}/artifacts/model --served-model-name {model} {serve}
```"""

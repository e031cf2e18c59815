"""Write the reference pages of infra/docs from the code: commands, recipe keys, metrics, Python.

    .venv/stage/bin/python infra/reference.py

Run it after a change of a command, a recipe key or a metric; a test compares the pages.
"""

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer
from markdown_text import escape, first_sentence, one_line, paragraphs, table
from reference_python import python_page
from reference_variables import VARIABLES
from typer.core import TyperCommand, TyperGroup

from flows.api.error_codes import PACKAGED, coded_sections
from flows.cli.app import COMMANDS, app, load_command
from rlhf_core import errors
from rlhf_core.benchmarks.names import FORMS, SHARES, BenchmarkMetric
from rlhf_core.benchmarks.subsets import meaning_of, subset_metric
from rlhf_core.config import Recipe
from rlhf_core.metrics import METRICS, domain
from rlhf_core.stage_catalogue import STAGES, gated_stages

FOLDER = Path(__file__).parent / "docs" / "reference"
MADE = "Made from the code by `infra/reference.py`; a test compares the two.\n"
EXIT_CODES = {
    0: "Done",
    errors.BadInput.exit_code: "Bad input or configuration, or a limit of the recipe is reached: "
    "correct it, a retry does not help",
    errors.GateRefused.exit_code: "A gate, a promotion or a rollback was refused, "
    "the ledger was altered, or with `rlhf plan` a stage does not fit",
    errors.RLHFError.exit_code: "Anything else: infrastructure, or an unexpected error; the same "
    "command resumes. Of `rlhf doctor`: a check failed",
    130: "Stopped by Ctrl-C",
}
METRIC_GROUPS = {  # prefix of names -> title
    "": "Of every stage",
    "system": "What a stage takes of the machine",
} | {stage.metric_prefix: f"`{name}`" for name, stage in STAGES.items()}


def pages() -> dict[Path, str]:
    """Return the text of each generated page by its path."""
    made = {"commands": commands(), "recipe-keys": recipe_keys(), "metrics": metrics()}
    made["python"] = python_page(MADE)
    runbook = FOLDER.parent / "operate" / "runbook.md"
    sections = coded_sections(runbook.read_text(encoding="utf-8"))
    return {FOLDER / f"{name}.md": text for name, text in made.items()} | {PACKAGED: sections}


def commands() -> str:
    """Return the page of all commands, exit codes and environment variables."""
    group = typer.main.get_command(app)
    assert isinstance(group, TyperGroup)
    context = typer.Context(group, info_name="rlhf")
    found = {name: load_command(name) for names in COMMANDS.values() for name in names}
    parts = [f"# What can `rlhf` do?\n\n{one_line(group.help)}\n\n{MADE}"]
    parts += [
        "The program is `.venv/bin/rlhf` in a clone. `rlhf --version` prints the version, the "
        "code's commit or digest, and the digest of each environment's lock. "
        "`--install-completion` sets up the shell.\n"
    ]
    panels: dict[str, list[str]] = {}
    for name, command in found.items():
        panels.setdefault(panel_of(command), []).append(name)
    for panel, names in panels.items():
        links = {n: f"[`rlhf {n}`](#rlhf-{n.replace(' ', '-')})" for n in names}
        rows = [[link, first_sentence(found[n].help)] for n, link in links.items()]
        parts.append(f"## {panel}\n\n{table(['command', 'what it does'], rows)}")
    codes = [[f"`{code}`", text] for code, text in sorted(EXIT_CODES.items())]
    parts.append(f"## Exit codes\n\n{table(['code', 'meaning'], codes)}")
    rows = [[f"`{name}`", text] for name, text in VARIABLES.items()]
    parts.append(f"## Environment variables\n\n{table(['variable', 'meaning'], rows)}")
    parts += [one_command(name, command, context) for name, command in found.items()]
    return "\n".join(parts)


def panel_of(command: TyperCommand) -> str:
    """Return the heading under which `rlhf --help` lists a command."""
    panel = command.rich_help_panel
    return getattr(panel, "value", panel) or "Commands"


def one_command(name: str, command: TyperCommand, parent: typer.Context) -> str:
    """Return the section of one command: help, usage, options."""
    context = typer.Context(command, info_name=name, parent=parent)
    usage = " ".join(command.collect_usage_pieces(context))
    usage = re.sub(r"[{}]", "", usage).replace("......", "...").replace(" ...", "...")
    shown = [p for p in command.params if not getattr(p, "hidden", False) and p.name != "help"]
    rows = [[f"`{spelling(p, context)}`", meaning(p)] for p in shown]
    options = f"\n{table(['argument or option', 'meaning'], rows)}" if rows else ""
    about = escape(paragraphs(command.help))
    return f"## rlhf {name}\n\n{about}\n\n    rlhf {name} {usage}\n{options}"


def spelling(parameter: Any, context: typer.Context) -> str:
    """Return how a parameter is written: its names and the shape of its value."""
    if parameter.param_type_name == "argument":
        return parameter.metavar or parameter.name.upper()
    value = parameter.metavar or parameter.display_type(context).strip("<>").upper().removesuffix(
        " RANGE"
    )
    value = re.sub(r"LIST\[(\w+)\]", r"\1", value)
    if parameter.type_descriptor.is_choice:
        value = value.lower()
    names = ", ".join([*parameter.opts, *parameter.secondary_opts])
    if parameter.is_flag:
        return names
    return f"{names} {value}"


def meaning(parameter: Any) -> str:
    """Return the help of a parameter, its default and the variable that sets it."""
    text = escape(one_line(getattr(parameter, "help", None)))
    plain = isinstance(parameter.default, str | int | float)
    if plain and not isinstance(parameter.default, bool) and f"{parameter.default}":
        text += f" (default: {parameter.default})"
    return f"{text} (`{parameter.envvar}`)" if parameter.envvar else text


def recipe_keys() -> str:
    """Return the page of all recipe keys, a table per section."""
    schema = Recipe.model_json_schema()
    parts = [
        "# Which keys does a recipe have?\n\nA recipe is a TOML file; it holds only differences to "
        "these defaults. `--set KEY=VALUE` changes one key of a run. "
        "`extends` and `unset`, above the first section, build on another recipe "
        "([your project](../start/your-project.md#how-does-a-recipe-extend-another)).\n\n"
        f"{MADE}\nThe source of each default: [hyperparameters.md](hyperparameters.md).\n"
    ]
    for title, places in sections(schema).items():
        body = schema if title == "" else schema["$defs"][title]
        heading = ", ".join(f"`[{place}]`" for place in places) or "The recipe itself"
        about = one_line(body.get("description"))
        rows = [
            [f"`{key}`", kind(field, schema), default(field, key in body.get("required", [])), text]
            for key, field in body["properties"].items()
            if "$ref" not in field
            for text in [escape(one_line(field.get("description")))]
        ]
        head = ["key", "value", "default", "meaning"]
        parts.append(
            f"## {heading}\n\n{escape(about)}\n\n{table(head, rows)}".replace("\n\n\n", "\n")
        )
    return "\n".join(parts)


def sections(schema: dict) -> dict[str, list[str]]:
    """Return where each section of a recipe stands: the class's name -> its places, in order."""
    found: dict[str, list[str]] = {"": []}

    def visit(place: str, body: dict) -> None:
        for key, field in body["properties"].items():
            for reference, suffix in references(field):
                title, name = reference.rpartition("/")[2], f"{place}{key}{suffix}"
                found.setdefault(title, []).append(name)
                visit(f"{name}.", schema["$defs"][title])

    visit("", schema)
    return found


def references(field: dict, suffix: str = "") -> Iterator[tuple[str, str]]:
    """Yield the sections that a field holds, and what follows its key for each."""
    if "$ref" in field:
        yield field["$ref"], suffix
    for one in field.get("anyOf", []):
        yield from references(one, suffix)
    for inner in [field.get("items"), field.get("additionalProperties")]:
        if isinstance(inner, dict):
            yield from references(inner, suffix if inner is field.get("items") else ".NAME")
    for inner in field.get("patternProperties", {}).values():
        yield from references(inner, ".NAME")


def kind(field: dict, schema: dict) -> str:
    """Return in words what a key may be set to."""
    if "anyOf" in field:
        words = [kind(one, schema) for one in field["anyOf"] if one.get("type") != "null"]
        return " or ".join(dict.fromkeys(words))
    if "$ref" in field:
        return "a section"
    if "enum" in field or "const" in field:
        return ", ".join(f"`{value}`" for value in field.get("enum", [field.get("const")]))
    if field.get("type") == "array":
        return f"list of: {kind(field.get('items', {}), schema)}"
    if field.get("type") == "object":
        choices = [field.get("additionalProperties"), *field.get("patternProperties", {}).values()]
        inner = next((one for one in choices if isinstance(one, dict)), None)
        return f"table of: {kind(inner, schema) if inner else 'any'}"
    if field.get("type") in ("integer", "number"):
        return f"{field['type']}{bounds(field)}"
    return {"boolean": "`true`, `false`", "string": "text"}.get(field.get("type", ""), "any")


def bounds(field: dict) -> str:
    """Return the bounds of a number, after a space; nothing where there are none."""
    signs = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    found = [f"{sign} {field[name]:.10g}" for name, sign in signs.items() if name in field]
    return f" {', '.join(found)}" if found else ""


def default(field: dict, required: bool) -> str:
    """Return a key's default, or that it must be given."""
    value = field.get("default")
    if required:
        return "required"
    if value is None or value in ([], {}, ""):
        return "none"
    return f"`{str(value).lower()}`" if isinstance(value, bool) else f"`{value}`"


def metrics() -> str:
    """Return the page of all metrics, a table per stage."""
    parts = [
        "# What does each metric mean?\n\nEvery number that a stage logs is declared in "
        "`rlhf_core/metric_tables/stages.py` with its unit, range and meaning; a stage that logs "
        f"another name fails.\n\n{MADE}\nGates may be set on those of "
        f"{', '.join(gated_stages())}: [gates](../concepts/gates.md).\n"
    ]
    for prefix, title in METRIC_GROUPS.items():
        rows = [
            [f"`{name}`", metric.unit, interval(*domain(name)), escape(metric.meaning)]
            for name, metric in METRICS.items()
            if (name.partition("/")[0] if "/" in name else "") == prefix
        ]
        parts.append(f"## {title}\n\n{table(['metric', 'unit', 'range', 'meaning'], rows)}")
    parts.append(benchmark_metrics())
    parts.append(subset_metrics())
    return "\n".join(parts)


def benchmark_metrics() -> str:
    """Return the section on the metrics that have a benchmark's name in theirs."""
    shares = ", ".join(f"`{name}`" for name in sorted(SHARES))
    rows = []
    for of in FORMS:
        name = BenchmarkMetric("TASK", "METRIC", of)
        rows.append([f"`{name.name}`", escape(name.meaning)])
    text = f"""TASK is a benchmark of `evaluate.benchmarks.tasks`, METRIC a metric as lm-eval
names it. {shares} are 0 or 1 for each item: their means are shares, with Wilson's interval. Any
other metric may be any number, with a bootstrap interval. Each has the ends of its 95% interval
beside it, with `_lower` and `_upper` after its name."""
    return f"## Benchmarks\n\n{one_line(text)}\n\n{table(['metric', 'meaning'], rows)}"


def subset_metrics() -> str:
    """Return the section on the metrics that have a subset of the comparisons in their names."""
    name = subset_metric("SUBSET")
    ends = (name, f"{name}_lower", f"{name}_upper")
    rows = [[f"`{one}`", escape(meaning_of(one) or "")] for one in ends]
    text = """SUBSET is a value of the column `subset` of the held-out comparisons, of letters,
digits, `_`, `-` and `.` alone; of more than 100, the most frequent ones."""
    return f"## Subsets of comparisons\n\n{one_line(text)}\n\n{table(['metric', 'meaning'], rows)}"


def interval(low: float, high: float) -> str:
    """Return a range in words."""
    if math.isinf(low) and math.isinf(high):
        return "any finite"
    ends = [f"≥ {low:g}"] * (not math.isinf(low)) + [f"≤ {high:g}"] * (not math.isinf(high))
    return ", ".join(ends)


if __name__ == "__main__":
    for path, text in pages().items():
        path.write_text(text, encoding="utf-8")

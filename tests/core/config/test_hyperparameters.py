"""The page of hyperparameters states every default with its bound and its source.

The page is infra/docs/reference/hyperparameters.md. It states nothing that is not true.
"""

import re
from importlib.metadata import version
from itertools import product
from pathlib import Path

from rlhf_core.config import Recipe
from rlhf_core.engine.deepspeed import ADAM_BETAS, ADAM_EPS

ROOT = Path(__file__).resolve().parents[3]
PAGE = ROOT / "infra" / "docs" / "reference" / "hyperparameters.md"
# sections: where rows come from, which processes run
NEITHER_LEARNS_NOR_DECIDES = ("Source", "Distributed")
FIXED = {
    "rlhf_core/engine/deepspeed.py ADAM_BETAS": str(ADAM_BETAS),
    "rlhf_core/engine/deepspeed.py ADAM_EPS": f"{ADAM_EPS:g}",
}
SOURCE = re.compile(
    r"ours: .|arXiv:\d{4}\.\d{5}|\b(verl|openrlhf|trl|deepspeed|peft|transformers|vllm) \d"
)
SCHEMA = Recipe.model_json_schema()


def variants(schema: dict) -> list[dict]:
    """Return the schemas that a value may have, references followed."""
    if "$ref" in schema:
        schema = SCHEMA["$defs"][schema["$ref"].rpartition("/")[2]] | {
            k: v for k, v in schema.items() if k != "$ref"
        }
    return [found for one in schema.get("anyOf", []) for found in variants(one)] or [schema]


def bound(kinds: list[dict]) -> str:
    """In words, what a key may be set to."""
    words = []
    for kind in kinds:
        if "enum" in kind or "const" in kind:
            words.append(", ".join(map(shown, kind.get("enum", [kind.get("const")]))))
        elif kind.get("type") in ("integer", "number"):
            words.append(("integer " if kind["type"] == "integer" else "") + interval(kind))
        elif kind.get("type") == "boolean":
            words.append("`true`, `false`")
        elif kind.get("type") == "array":
            words.append("names")
        elif kind.get("type") == "object":
            words.append("a section")
    return " or ".join(words)


def interval(kind: dict) -> str:
    signs = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    return (
        ", ".join(f"{sign} {kind[name]:.10g}" for name, sign in signs.items() if name in kind)
        or "any finite"
    )


def shown(value: object) -> str:
    if isinstance(value, bool) or value is None:
        return f"`{str(value).lower()}`"
    return f"`{value:g}`" if isinstance(value, float) else f"`{value}`"


def defaults(schema: dict, prefix: str = "") -> dict[str, tuple[str, str]]:
    """Return key -> (default, bound).

    For each number, switch and choice, and for each section that is off by default.
    """
    found = {}
    for name, field in schema.get("properties", {}).items():
        kinds, key = variants(field), f"{prefix}{name}"
        sections = [kind for kind in [*kinds, *nested(kinds)] if "properties" in kind]
        for section in sections:
            if section["title"] not in NEITHER_LEARNS_NOR_DECIDES:
                found |= defaults(section, f"{key}.")
        choices = any(
            {"enum", "const"} & kind.keys() or kind.get("type") in ("integer", "number", "boolean")
            for kind in kinds
        )
        off = (
            bool(sections)
            and field.get("default", "") is None
            and sections[0]["title"] not in NEITHER_LEARNS_NOR_DECIDES
        )
        if "default" in field and (choices or off):
            found[key] = (shown(field["default"]), bound(kinds))
    return found


def nested(kinds: list[dict]) -> list[dict]:
    """Return the schema of the items of a list or a table of sections."""
    inner = [
        kind[name]
        for kind in kinds
        for name in ("items", "additionalProperties")
        if isinstance(kind.get(name), dict)
    ]
    inner += [schema for kind in kinds for schema in kind.get("patternProperties", {}).values()]
    return [found for schema in inner for found in variants(schema)]


def expand(pattern: str) -> list[str]:
    """'{a,b}.c' -> ['a.c', 'b.c']."""
    parts = [part.split(",") for part in re.split(r"[{}]", pattern)]
    return ["".join(chosen) for chosen in product(*parts)]


def stated() -> list[tuple[str, list[str]]]:
    """Key -> cells (default, bound, unit, source) of each table row of the page."""
    found = []
    for line in PAGE.read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split(" | ")]
        if line.startswith("| `"):
            found += [
                (key, cells[1:])
                for pattern in re.findall(r"`([^`]+)`", cells[0])
                for key in expand(pattern)
            ]
    return found


def test_the_page_states_every_default_and_bound_once_and_no_other_key():
    keys = [key for key, _ in stated()]
    assert len(keys) == len(set(keys))
    expected = defaults(SCHEMA)
    assert len(expected) > 150
    assert set(keys) - set(FIXED) == set(expected)
    assert {key: (cells[0], cells[1]) for key, cells in stated() if key in expected} == expected


def test_what_has_no_key_is_stated_as_it_is():
    assert {key: cells[0].strip("`") for key, cells in stated() if key in FIXED} == FIXED


def test_every_default_has_a_unit_and_a_source():
    for key, cells in stated():
        assert len(cells) == 4 and all(cells) and SOURCE.search(cells[3]), key


def test_the_versions_named_are_those_that_are_compared_with_and_installed():
    text, pinned = PAGE.read_text(), (ROOT / "infra" / "parity" / "requirements.txt").read_text()
    for name in ("verl", "openrlhf", "trl"):
        assert set(re.findall(rf"\b{name} (\d[\d.]*\d)", text)) == set(
            re.findall(rf"^{name}==(\S+)", pinned, re.MULTILINE)
        )
    for name in ("deepspeed", "peft", "transformers"):
        assert set(re.findall(rf"\b{name} (\d[\d.]*\d)", text)) == {version(name)}

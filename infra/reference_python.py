"""Write the reference page of `flows.api` from its signatures and docstrings."""

import inspect
import re
from functools import cached_property
from typing import Any

from markdown_text import escape, first_sentence, paragraphs, table

from flows import api
from rlhf_core.errors import RLHFError

HEAD = """# What can I call from Python?

    from flows import api as rlhf

{about}

A first session: [Python](../start/python.md). {made}"""
WIDE = 88  # characters of a signature on one line


def python_page(made: str) -> str:
    """Return the page: functions, classes with their members, options and errors."""
    found = {name: getattr(api, name) for name in api.__all__}
    errors = [one for one in found.values() if isinstance(one, type) and issubclass(one, RLHFError)]
    functions = {name: one for name, one in found.items() if inspect.isfunction(one)}
    classes = [one for one in found.values() if isinstance(one, type) and one not in errors]
    about = escape(paragraphs(api.__doc__).partition("\n\n")[2])
    parts = [HEAD.format(about=about, made=made)]
    parts += ["## Functions\n\n" + table(["function", "what it does"], rows_of(functions))]
    parts += [function_section(name, one) for name, one in functions.items()]
    parts += [class_section(one) for one in classes]
    rows = [[f"`{one.__name__}`", first_sentence(one.__doc__)] for one in errors]
    parts += ["## Errors\n\n" + table(["error", "meaning"], rows)]
    return "\n".join(parts)


def rows_of(functions: dict[str, Any]) -> list[list[str]]:
    """Return a row per function: its name with a link to its section, its first sentence."""
    return [
        [f"[`{name}`](#{name})", first_sentence(inspect.getdoc(one))]
        for name, one in functions.items()
    ]


def function_section(name: str, function: Any) -> str:
    """Return the section of one function: signature and docstring."""
    about = escape(paragraphs(inspect.getdoc(function)))
    return f"## {name}\n\n{indented(signature(name, function))}\n\n{about}\n"


def class_section(cls: type) -> str:
    """Return the section of one class: docstring, properties and methods."""
    about = escape(paragraphs(inspect.getdoc(cls)))
    members = {n: m for n, m in vars(cls).items() if not n.startswith("_") and is_member(m)}
    rows = [[f"`{member_text(name, member)}`", meaning(member)] for name, member in members.items()]
    body = f"\n{table(['member', 'meaning'], rows)}" if rows else ""
    return f"## {cls.__name__}\n\n{about}\n{body}"


def is_member(value: Any) -> bool:
    """Return True for a method or a property, False for the default value of a field."""
    return inspect.isfunction(value) or isinstance(value, property | cached_property)


def member_text(name: str, member: Any) -> str:
    """Return how a member is used: a property by its name, a method with its arguments."""
    return signature(name, member) if inspect.isfunction(member) else name


def meaning(member: Any) -> str:
    """Return the docstring of a member on one line."""
    return escape(" ".join(paragraphs(inspect.getdoc(member)).split()))


def signature(name: str, function: Any) -> str:
    """Return a call with its parameters, types and defaults, without `self` and quotes."""
    found = inspect.signature(function)
    kept = [one for key, one in found.parameters.items() if key != "self"]
    text = re.sub(r"(?<=: |> )'([^']+)'", r"\1", str(found.replace(parameters=kept)))
    text = re.sub(r"\b(?:collections\.abc|flows\.api\.\w+|typing|os|pathlib)\.", "", text)
    text = re.sub(r"\*<class '(\w+)'>", r"Unpack[\1]", text)
    return f"{name}{text}"


def indented(call: str) -> str:
    """Return a signature as a code block, a parameter per line where it is long."""
    if len(call) > WIDE:
        head, _, rest = call.partition("(")
        inside, _, result = rest.rpartition(")")
        call = f"{head}(\n    " + ",\n    ".join(split_outside(inside)) + f",\n){result}"
    return "\n".join(f"    {line}" for line in call.splitlines())


def split_outside(text: str) -> list[str]:
    """Split parameters at the commas that no bracket holds."""
    parts, depth = [""], 0
    for letter in text:
        depth += (letter in "[({") - (letter in "])}")
        if letter == "," and not depth:
            parts.append("")
        else:
            parts[-1] += letter
    return [part.strip() for part in parts]

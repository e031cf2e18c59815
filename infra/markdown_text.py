"""Write Markdown: tables, and help texts as paragraphs, lines and escaped words."""

import re


def table(head: list[str], rows: list[list[str]]) -> str:
    """Return a Markdown table."""
    lines = [[cell.replace("|", r"\|") for cell in line] for line in (head, *rows)]
    lines.insert(1, ["---"] * len(head))
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def paragraphs(text: str | None) -> str:
    """Return a help text with each paragraph on one line."""
    return "\n\n".join(map(one_line, re.split(r"\n\s*\n", (text or "").replace("\b", "").strip())))


def one_line(text: str | None) -> str:
    """Return a text with each run of white space as one space."""
    return " ".join((text or "").split())


def first_sentence(text: str | None) -> str:
    """Return the first paragraph of a help text."""
    return escape(one_line(paragraphs(text).partition("\n\n")[0]))


def escape(text: str) -> str:
    """Return a text in which Markdown and HTML signs show as they are."""
    return text.replace("<", "&lt;").replace("*", r"\*")

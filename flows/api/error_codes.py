"""The codes of errors, each with the runbook's section on it.

The sections are those of infra/docs/operate/runbook.md whose headings end with a code. A copy of
them is beside this module, because an installed package has no documentation;
`infra/reference.py` writes it.
"""

import posixpath
import re
from dataclasses import dataclass
from pathlib import Path

from flows.api.arguments import require_text
from rlhf_core.errors import BadInput

PACKAGED = Path(__file__).with_suffix(".md")
RUNBOOK = "infra/docs/operate/runbook.md"  # what links in the sections are relative to
_SECTION = re.compile(
    r"^### (?P<title>[^\n]+) \((?:(?P<exit>[^()\n]*), )?(?P<code>RLHF-[A-Z]\d{3})\)\n"
    r"(?P<text>.*?)(?=^#|\Z)",
    re.MULTILINE | re.DOTALL,
)
_LINK = re.compile(r"(?P<open>\()?\[(?P<text>[^\]\n]+)\]\((?P<target>[^()\s]+)\)(?(open)\))")


@dataclass(frozen=True)
class ErrorCode:
    """One code with its section.

    exit: the exit code of the command line, in words. text: the section as the runbook has it, with
    a page's path in the repository in place of each link.
    """

    code: str
    title: str
    exit: str
    text: str


def coded_sections(page: str) -> str:
    """Return the sections of a page whose headings end with a code, as one text."""
    found = sorted(_SECTION.finditer(page), key=lambda match: match["code"])
    return "\n".join(match[0].rstrip() + "\n" for match in found)


def error_codes() -> list[ErrorCode]:
    """Return every code with its section, in the order of the codes."""
    found = _SECTION.finditer(PACKAGED.read_text(encoding="utf-8"))
    return [
        ErrorCode(match["code"], match["title"], match["exit"] or "", _plain(match["text"].strip()))
        for match in found
    ]


def _plain(section: str) -> str:
    """Return a section of the runbook with `text (page)` in place of each link."""
    return _LINK.sub(_page_named, section)


def _page_named(link: re.Match[str]) -> str:
    page, mark, anchor = link["target"].partition("#")
    if "://" not in page:
        folder = posixpath.dirname(RUNBOOK)
        page = posixpath.normpath(posixpath.join(folder, page)) if page else RUNBOOK
    place = f"{page}{mark}{anchor}"
    return f"({link['text']}: {place})" if link["open"] else f"{link['text']} ({place})"


def explain(code: str) -> ErrorCode:
    """Return the runbook's section on a code, e.g. RLHF-F001; F001 and f001 are taken too.

    Raises BadInput, which names the codes there are, for any other.
    """
    require_text("the code", code)
    wanted = code.strip().strip("[]").upper()
    known = {found.code: found for found in error_codes()}
    for name in (wanted, f"RLHF-{wanted}"):
        if name in known:
            return known[name]
    raise BadInput(f"there is no code {code!r}; expected one of {', '.join(known)}.")

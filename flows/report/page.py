"""The HTML page of every report: one file without outside references, usable without JS.

It has a light and a dark theme. Every text goes through markupsafe, which escapes it, because model
replies are untrusted.
"""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from markupsafe import Markup

LARGEST = 3_000_000  # bytes of a page
STYLE, SCRIPT = (
    Path(__file__).with_name(name).read_text(encoding="utf-8") for name in ("page.css", "page.js")
)

Section = tuple[str, Markup]  # title, content


def page(title: str, lead: Markup, sections: Iterable[Section]) -> str:
    """Return the whole page; sections without content are left out."""
    kept = [
        (f"s{place}", name, content) for place, (name, content) in enumerate(sections) if content
    ]
    links = join(Markup('<a href="#{}">{}</a>').format(key, name) for key, name, _ in kept)
    body = join(Markup('<h2 id="{}">{}</h2>{}').format(*part) for part in kept)
    return Markup(
        "<!doctype html>\n<html lang=en>\n<meta charset=utf-8>\n<meta name=viewport"
        " content='width=device-width'>\n"
        "<title>{}</title>\n<style>{}</style>\n<main><h1>{}</h1>{}<nav>{}</nav>{}</main>\n<script>{}</script>\n</html>\n"
    ).format(title, Markup(STYLE), title, lead, links, body, Markup(SCRIPT))


def fitting(render: Callable[[int], str], rows: int) -> str:
    """Return the page with the sample rows that leave it under LARGEST bytes.

    The number of rows is halved until the page fits. render: number of rows -> page.
    """
    while True:
        text = render(rows)
        if len(text.encode()) < LARGEST or rows == 0:
            return text
        rows //= 2


def join(parts: Iterable[Markup]) -> Markup:
    """Return the parts joined into one."""
    return Markup("").join(parts)


def table(
    head: Sequence[str],
    rows: Iterable[Iterable[Markup]],
    *,
    numeric: Sequence[int] = (),
    classes: str = "",
) -> Markup:
    """Return a table in a card; rows are cells made by `cell`.

    numeric: indices of the columns whose heads are aligned to the right.
    """
    heads = join(
        Markup("<th{}>{}</th>").format(Markup(" class=num") if place in numeric else "", name)
        for place, name in enumerate(head)
    )
    body = join(Markup("<tr>{}</tr>\n").format(join(row)) for row in rows)
    whole = Markup(
        '<div class="card wide {}"><table'
        ' class="{}"><thead><tr>{}</tr></thead>\n<tbody>{}</tbody></table></div>'
    )
    return whole.format("scroll" if "sortable" in classes else "", classes, heads, body)


def cell(content: object, *, kind: str = "", small: str = "", sort: float | None = None) -> Markup:
    """Return a table cell.

    kind: its CSS class; small: a second, dim line; sort: the value that the column sorts by.
    """
    key = Markup(' data-v="{}"').format(sort) if sort is not None else ""
    below = Markup("<small>{}</small>").format(small) if small else ""
    return Markup("<td{}{}>{}{}</td>").format(
        Markup(' class="{}"').format(kind) if kind else "", key, content, below
    )


def badge(text: str, kind: str = "") -> Markup:
    """Return a verdict in its colour. kind: good, bad, warn or '' for none."""
    return Markup('<span class="badge {}">{}</span>').format(kind, text)


def code(text: object) -> Markup:
    """Return a text in a fixed-width font."""
    return Markup("<code>{}</code>").format(text)


def link(text: str, url: str | None) -> Markup:
    """Return a link to an http or https address; the text alone for any other address."""
    if not url or not url.startswith(("http://", "https://")):
        return Markup("{}").format(text)
    return Markup('<a href="{}" rel=noreferrer>{}</a>').format(url, text)


def folded(summary: str, content: Markup) -> Markup:
    """Return content that unfolds below its summary; '' without content."""
    return (
        Markup("<details><summary>{}</summary>{}</details>").format(summary, content)
        if content
        else Markup("")
    )


def legend(names: Sequence[str]) -> Markup:
    """Return the legend: the colour of each series."""
    entries = (
        Markup('<span><i class="f{}"></i>{}</span>').format(place % 6, name)
        for place, name in enumerate(names)
    )
    return Markup("<div class=legend>{}</div>").format(join(entries))

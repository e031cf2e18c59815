"""Check a built site: each link leads to a file and an anchor, and nothing is loaded from afar."""

import re
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

LOADING = {  # what a browser loads without a click: tag -> attributes
    "script": ("src",),
    "link": ("href",),
    "img": ("src", "srcset"),
    "iframe": ("src",),
    "source": ("src", "srcset"),
    "video": ("src", "poster"),
    "audio": ("src",),
    "object": ("data",),
}
LINKING = {"a": ("href",)} | LOADING
REMOTE = re.compile(r"(?:https?:)?//", re.IGNORECASE)
STYLE_REMOTE = re.compile(r"(?:url\(\s*['\"]?|@import\s+['\"])((?:https?:)?//[^'\")\s]+)", re.I)


class _Reader(HTMLParser):
    """The anchors of a page, and its addresses with the tag that names them."""

    def __init__(self) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.addresses: list[tuple[str, str]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Keep ids, names and addresses."""
        values = dict(attrs)
        self.anchors |= {name for name in (values.get("id"), values.get("name")) if name}
        for attribute in LINKING.get(tag, ()):
            if value := values.get(attribute):
                self.addresses.append((tag, value))


@cache
def _read(page: Path) -> _Reader:
    reader = _Reader()
    reader.feed(page.read_text(encoding="utf-8"))
    return reader


def faults(site: Path) -> list[str]:
    """Return the faults of a site, each with its page; an empty list for a sound one."""
    _read.cache_clear()
    pages = sorted(site.rglob("*.html"))
    found = [f"{page.relative_to(site)}: {one}" for page in pages for one in _faults(site, page)]
    for style in sorted(site.rglob("*.css")):
        remote = STYLE_REMOTE.findall(style.read_text(encoding="utf-8"))
        found += [f"{style.relative_to(site)}: loads {address}" for address in remote]
    return found


def _faults(site: Path, page: Path) -> list[str]:
    return [
        fault
        for tag, address in _read(page).addresses
        if (fault := _fault(site, page, tag, address))
    ]


def _fault(site: Path, page: Path, tag: str, address: str) -> str | None:
    """Return what is wrong with an address of a page; None if it is sound."""
    if REMOTE.match(address):
        return f"loads {address}" if tag in LOADING else None
    parts = urlsplit(address)
    if parts.scheme:
        return None  # data:, mailto:, blob:
    path = unquote(parts.path)
    base = site if path.startswith("/") else page.parent
    target = (base / path.lstrip("/")).resolve() if path else page
    if target.is_dir():
        target /= "index.html"
    if not target.is_file():
        return f"{address} leads to no file"
    if parts.fragment and target.suffix == ".html":
        anchors = _read(target).anchors
        if unquote(parts.fragment) not in anchors:
            return f"{address} leads to no anchor of {target.name}"
    return None

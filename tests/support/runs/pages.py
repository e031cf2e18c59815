"""Read a page as a browser does, and check that it needs nothing from elsewhere."""

import re
from html.parser import HTMLParser

from flows.report.page import LARGEST

EVIL = "<script>alert(1)</script><img src=https://evil.example/x onerror=alert(2)>"
Attributes = list[tuple[str, str | None]]


class Page(HTMLParser):
    """The elements and texts that a browser sees; every element must be closed."""

    def __init__(self, text: str):
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.texts: list[str] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: Attributes) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: Attributes) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())


def assert_self_contained(text: str) -> Page:
    """Check that a page needs nothing from elsewhere, and return it.

    It links to its own MLflow only, has one script of its own, and closes every element.
    """
    seen = Page(text)
    assert seen.open == [] and len(text.encode()) < LARGEST
    assert seen.tags.count("script") == 1 and not {
        "img",
        "link",
        "iframe",
        "object",
        "base",
        "form",
    } & set(seen.tags)
    for tag, name, value in seen.attributes:
        assert not name.startswith("on") and name not in ("src", "srcset", "action"), (
            tag,
            name,
            value,
        )
        if name == "href":
            assert value.startswith(("#", "http://127.0.0.1:5000/#/experiments/")), value
    found = re.search(r"<style>(.*?)</style>", text, re.S)
    assert found, "the page has no style of its own"
    style = found[1]
    assert "url(" not in style and "@import" not in style and "prefers-color-scheme: dark" in style
    return seen

"""Read a page as a browser does, and check that it needs nothing from elsewhere."""

import re
from html.parser import HTMLParser

from flows.report.page import LARGEST

EVIL = "<script>alert(1)</script><img src=https://evil.example/x onerror=alert(2)>"


class Page(HTMLParser):
    """The elements and texts that a browser sees; every element must be closed."""

    def __init__(self, text: str):
        super().__init__()
        self.tags, self.attributes, self.texts, self.open = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += [(tag, name, value) for name, value in attributes]
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += [(tag, name, value) for name, value in attributes]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
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
    style = re.search(r"<style>(.*?)</style>", text, re.S)[1]
    assert "url(" not in style and "@import" not in style and "prefers-color-scheme: dark" in style
    return seen

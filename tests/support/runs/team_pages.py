"""Content for the team's page, and a page read as its reader's tools read it."""

import re
from dataclasses import dataclass, field
from datetime import UTC, datetime
from html.parser import HTMLParser

from flows.api.champions import ReigningChampion
from flows.team.content import LiveItem, RunItem, ServiceItem, StageItem, TeamContent, WaitingItem

AT = datetime(2026, 11, 28, 9, 14, tzinfo=UTC)
HOSTILE = "<script>alert('x')</script>\"&"
VOID = {"meta", "link", "br", "img", "input", "hr"}


def filled(text: str = "tiny-1443afb-1", href: str = "http://127.0.0.1:5000/#/x") -> TeamContent:
    """Return content with an item in every part, each with this text and address."""
    stages = (StageItem("sft", "finished"), StageItem("ppo", "running", text))
    run = RunItem(text, href, "running", "plain", AT, "1m 05s", stages, text)
    champion = ReigningChampion(
        name=text,
        kind="policy",
        model=text,
        version="3",
        digest="d" * 64,
        since=AT,
        by=text,
        action="promote",
        evidence=(text, "contest won"),
        entry=2,
        link=href,
        problem=text,
    )
    columns = ("deployment", "schedule", "starts on", "next run", "latest run", "state", "pool")
    return TeamContent(
        workspace=text,
        made=AT,
        mlflow="http://127.0.0.1:5000",
        prefect="http://127.0.0.1:4200",
        services=[ServiceItem(text, text, "good", text, href, text)],
        running=[run],
        live=[LiveItem(text, text, "warn", text, (text,), AT)],
        waiting=[WaitingItem(text, text, text, href, AT, None)],
        champions=[champion],
        deployments=[dict.fromkeys(columns, text)],
        runs=[run],
        problems={"waiting": text, "champions": text, "deployments": text},
    )


def empty() -> TeamContent:
    """Return content of a workspace in which nothing has happened."""
    return TeamContent("/home", AT, "", "", [], [], [], [], [], [], [])


@dataclass
class Element:
    """An element of a page, with its text and what is in it."""

    tag: str
    attributes: dict[str, str]
    parent: "Element | None" = None
    children: list["Element"] = field(default_factory=list)
    text: str = ""

    def all(self, *tags: str) -> list["Element"]:
        """Return the elements in this one with one of these tags, in the page's order."""
        found = []
        for child in self.children:
            found += [child] if child.tag in tags or not tags else []
            found += child.all(*tags)
        return found

    @property
    def words(self) -> str:
        """The text in this element, with single blanks."""
        parts = [self.text, *(child.words for child in self.children)]
        return re.sub(r"\s+", " ", " ".join(parts)).strip()


class Reader(HTMLParser):
    """Reads a page; fails on an element that is not closed in its turn."""

    def __init__(self) -> None:
        super().__init__()
        self.root = self._at = Element("", {})

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        element = Element(tag, {name: value or "" for name, value in attrs}, self._at)
        self._at.children.append(element)
        if tag not in VOID:
            self._at = element

    def handle_endtag(self, tag: str) -> None:
        assert self._at.tag == tag and self._at.parent, f"</{tag}> closes <{self._at.tag}>"
        self._at = self._at.parent

    def handle_data(self, data: str) -> None:
        self._at.text += data


def read_page(html: str) -> Element:
    """Return the root of a page."""
    reader = Reader()
    reader.feed(html)
    assert reader._at is reader.root
    return reader.root

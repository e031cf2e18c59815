"""The documentation becomes a site: every page has a place, every link holds, nothing is remote."""

import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

from flows.platform.doctor_packages import read_lock

ROOT = Path(__file__).resolve().parents[3]
SITE = ROOT / "infra" / "docs-site"
PAGES = "infra/docs"
ALIKE = ("h1", "h2", "h3", "h4", "tr", "li", "pre", "img")  # counted in both readings of a page


@pytest.fixture(autouse=True)
def site_is_importable(monkeypatch):
    monkeypatch.syspath_prepend(str(SITE))


@pytest.fixture
def small(tmp_path) -> Path:
    """A checkout with few pages."""
    pages = {
        "README.md": "# Front\n\n[all](infra/docs/README.md)\n",
        "infra/docs/README.md": "# All\n\n## Reference\n\n| page | question |\n|---|---|\n"
        "| [a](reference/python.md) | ? |\n| [p](../parity/README.md) | ? |\n"
        "| [t](../../mlflow/README.md) | ? |\n",
        f"{PAGES}/reference/python.md": "# A\n\n[front](../../../README.md#front)\n",
        "infra/parity/README.md": "# P\n",
        "mlflow/README.md": "# T\n",
        "CONTRIBUTING.md": "# C\n",
        "CHANGELOG.md": "# L\n",
        "flows/__init__.py": "",
        "flows/api/__init__.py": "from flows.api.one import One, two\n",
        "flows/api/one.py": 'class One:\n    """One."""\n\n\ndef two():\n    """Two."""\n',
    }
    for name, text in pages.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    return tmp_path


def test_every_page_of_the_repository_is_in_the_navigation():
    from site_source import CONTENTS, navigation, places

    where = places()
    nav = navigation((ROOT / CONTENTS).read_text(encoding="utf-8"), where)
    titles = [title for section in nav for title in section]
    assert titles[:5] == ["Home", "Tutorial", "How-to", "Concepts", "Reference"]
    named = {
        page
        for section in nav
        for rows in section.values()
        for row in rows
        for page in row.values()
    }
    pages = {place for place in where.values() if place.endswith(".md")}
    assert named == pages | {"reference/api.md"}
    assert {"index.md", "start/quickstart.md", "operate/tracking-server.md"} <= named


def test_a_page_without_a_row_and_a_row_without_a_page_are_refused(small):
    from site_source import write_source

    new = small / PAGES / "reference" / "new.md"
    new.write_text("# New\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"no row for reference/new\.md; add one"):
        write_source(small / "source", small)
    new.unlink()
    contents = small / PAGES / "README.md"
    row = "| [code](../../flows/api/one.py) | ? |\n"
    contents.write_text(contents.read_text(encoding="utf-8") + row, encoding="utf-8")
    with pytest.raises(ValueError, match=r"flows/api/one\.py is no page; correct the row"):
        write_source(small / "source", small)


@pytest.mark.parametrize(
    ("name", "link", "expected"),
    [
        (f"{PAGES}/start/a.md", "b.md#x", "[it](b.md#x)"),
        (f"{PAGES}/start/a.md", "#x", "[it](#x)"),
        (f"{PAGES}/start/a.md", "../../../README.md#layout", "[it](../index.md#layout)"),
        (f"{PAGES}/start/a.md", "https://x.org/y.md", "[it](https://x.org/y.md)"),
        (f"{PAGES}/start/a.md", "../../reference.py", "it (`infra/reference.py`)"),
        ("README.md", f"{PAGES}/start/b.md", "[it](start/b.md)"),
        ("mlflow/README.md", f"../{PAGES}/start/b.md", "[it](../start/b.md)"),
    ],
)
def test_a_link_leads_from_the_place_of_its_page_to_the_place_of_its_target(name, link, expected):
    from site_source import PLACES, moved_link

    pages = {f"{PAGES}/start/{one}.md": f"start/{one}.md" for one in "ab"}
    assert moved_link("it", link, name, pages | PLACES) == expected


def test_a_link_to_nothing_is_refused(small):
    from site_source import write_source

    page = small / PAGES / "reference" / "python.md"
    page.write_text("# A\n\n[x](gone.toml)\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"reference/python\.md: gone\.toml leads to no file"):
        write_source(small / "source", small)


def test_code_is_kept_and_lists_and_tables_are_written_as_the_site_reads_them(small):
    from site_source import page_text, places

    page = small / PAGES / "reference" / "python.md"
    page.write_text(
        "[`run`](b.png) and `[no](c.md)`\n\n    [no](c.md)\n\n- item\n\n      code\n\n  more\n\n"
        "text\n\n| `a\\|b` | c \\| d |\n",
        encoding="utf-8",
    )
    (page.parent / "b.png").write_bytes(b"")
    assert page_text(f"{PAGES}/reference/python.md", places(small), small) == (
        "[`run`](b.png) and `[no](c.md)`\n\n    [no](c.md)\n\n"
        "- item\n\n        code\n\n    more\n\n"
        "text\n\n| `a|b` | c \\| d |\n"
    )


def test_the_check_names_every_fault_of_a_site_and_none_of_a_sound_one(tmp_path):
    from site_check import faults

    sound = (
        '<h2 id="x">X</h2><a href="b.html#y">b</a><a href="#x">x</a><a href="https://x.org">w</a>'
    )
    (tmp_path / "a.html").write_text(f'{sound}<img src="p.png">', encoding="utf-8")
    (tmp_path / "b.html").write_text('<a id="y" href="/a.html">a</a>', encoding="utf-8")
    (tmp_path / "p.png").write_bytes(b"")
    (tmp_path / "s.css").write_text("a { background: url(p.png) }", encoding="utf-8")
    assert faults(tmp_path) == []
    (tmp_path / "p.png").unlink()
    (tmp_path / "b.html").write_text(
        '<a href="a.html#no">a</a><script src="https://cdn.x/a.js"></script>'
        '<link href="//fonts.x/f.css">',
        encoding="utf-8",
    )
    (tmp_path / "s.css").write_text("@import 'https://fonts.x/g.css';", encoding="utf-8")
    assert faults(tmp_path) == [
        "a.html: b.html#y leads to no anchor of b.html",
        "a.html: p.png leads to no file",
        "b.html: a.html#no leads to no anchor of a.html",
        "b.html: loads https://cdn.x/a.js",
        "b.html: loads //fonts.x/f.css",
        "s.css: loads https://fonts.x/g.css",
    ]


def test_the_pins_are_exact_and_leave_the_projects_own_libraries_alone():
    def pins(file: Path) -> dict[str, str]:
        lines = file.read_text(encoding="utf-8").splitlines()
        kept = [line.split() for line in lines if line and not line.startswith("#")]
        return dict(words[0].split("==") for words in kept)

    docs = pins(SITE / "requirements.txt")
    assert "zensical" in docs and all(re.fullmatch(r"[\d.]+", pin) for pin in docs.values())
    assert not set(docs) & set(read_lock(ROOT / "infra" / "requirements" / "cpu.txt"))


class Counts(HTMLParser):
    """The number of headings, rows, items, code blocks and pictures of a page."""

    def __init__(self, text: str, within: str = "") -> None:
        super().__init__()
        self.of = dict.fromkeys(ALIKE, 0)
        self.depth, self.within = 0, within
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.depth += tag == self.within
        if tag in ALIKE and (self.depth or not self.within):
            self.of[tag] += 1

    def handle_endtag(self, tag):
        self.depth -= tag == self.within


@pytest.mark.slow
@pytest.mark.timeout(1200)  # it may install the site's libraries
def test_the_site_is_built_without_a_fault_and_reads_pages_as_github_does():
    done = subprocess.run(
        [sys.executable, str(SITE / "build_site.py")], capture_output=True, encoding="utf-8"
    )
    assert done.returncode == 0, done.stdout + done.stderr
    from site_source import PLACES, places

    from flows import api

    out, github = ROOT / "build" / "docs", MarkdownIt("commonmark").enable("table")
    where = {name: place for name, place in places().items() if name.endswith(".md")}
    assert set(PLACES) < set(where) and len(where) > 50
    for name, place in where.items():
        built = (out / place).with_suffix(".html").read_text(encoding="utf-8")
        source = (ROOT / name).read_text(encoding="utf-8")
        assert Counts(built, "article").of == Counts(github.render(source)).of, name
    page = (out / "reference" / "api.html").read_text(encoding="utf-8")
    for name in api.__all__:
        assert f'id="{getattr(api, name).__module__}.{name}"' in page


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_broken_link_ends_the_build(small):
    import docs_environment
    from build_site import build

    docs_environment.prepare()
    assert (build(small) / "reference" / "python.html").is_file()
    page = small / PAGES / "reference" / "python.md"
    for link, message in {
        "[x](../README.md#nothing)": "zensical build failed",
        "[x](python.md#nothing)": "zensical build failed",
        "![x](https://x.org/x.png)": "loads https://x.org/x.png",
    }.items():
        page.write_text(f"# A\n\n{link}\n", encoding="utf-8")
        with pytest.raises(SystemExit, match=message):
            build(small)

"""Lay out the pages of the repository as the source of the site.

The pages of infra/docs keep their folders; a few pages from elsewhere get a place beside them. The
tables of infra/docs/README.md are the navigation. Links are changed where a page has moved; a link
to a file that is no page becomes plain text with the file's path.
"""

import ast
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath

ROOT = Path(__file__).resolve().parents[2]
DOCS = "infra/docs/"
CONTENTS = "infra/docs/README.md"
PLACES = {  # page of the repository -> page of the site
    "README.md": "index.md",
    CONTENTS: "contents.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "mlflow/README.md": "operate/tracking-server.md",
    "infra/parity/README.md": "results/parity.md",
}
HOME = {"Overview": "index.md", "All pages": "contents.md"}
PROJECT = {"Contributing": "contributing.md", "Changelog": "changelog.md"}
API = "reference/api.md"  # of the site alone: mkdocstrings makes it of the code
API_HEAD = """# Python, with source

Every name of `flows.api`, with its signature and source. In short: [Python](python.md).
"""
PICTURES, NOTEBOOK = (".png",), ".ipynb"
SECTION = re.compile(r"^## (.+)")
ROW = re.compile(r"^\| \[([^\]]+)\]\(([^)#]+)\) \|")
CODE = re.compile(r"(`[^`\n]+`)")
STYLE = re.compile(r"<style scoped>.*?</style>\s*", re.DOTALL)
ITEM = re.compile(r"(?:- |\d+\. )")
LINK = re.compile(r"\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s]+)\)")


def places(root: Path = ROOT) -> dict[str, str]:
    """Return the place on the site of each page, notebook and picture, by its path."""
    kinds = (".md", NOTEBOOK, *PICTURES)
    found = [path for path in sorted((root / DOCS).rglob("*")) if path.suffix in kinds]
    inside = {name: name.removeprefix(DOCS) for name in (_name(path, root) for path in found)}
    return {name: place.replace(NOTEBOOK, ".md") for name, place in (inside | PLACES).items()}


def write_source(folder: Path, root: Path = ROOT) -> list[Path]:
    """Write pages, pictures and configuration to an empty folder; return the notebooks.

    Notebooks are left to the caller, because their conversion needs the site's environment.
    """
    where = places(root)
    for name, place in where.items():
        target = folder / "pages" / place
        target.parent.mkdir(parents=True, exist_ok=True)
        if name.endswith(".md"):
            target.write_text(page_text(name, where, root), encoding="utf-8")
        elif not name.endswith(NOTEBOOK):
            shutil.copyfile(root / name, target)
    (folder / "pages" / API).write_text(api_page(root), encoding="utf-8")
    settings = (Path(__file__).parent / "mkdocs.yml").read_text(encoding="utf-8")
    nav = navigation((root / CONTENTS).read_text(encoding="utf-8"), where)
    settings = settings.replace("paths: []", f"paths: [{json.dumps(str(root))}]")
    (folder / "mkdocs.yml").write_text(f"{settings}\nnav: {json.dumps(nav)}\n", encoding="utf-8")
    return [root / name for name in where if name.endswith(NOTEBOOK)]


def page_text(name: str, where: dict[str, str], root: Path = ROOT) -> str:
    """Return a page of the repository as the site has it."""
    return site_text((root / name).read_text(encoding="utf-8"), name, where, root)


def notebook_text(text: str, name: str, where: dict[str, str], root: Path = ROOT) -> str:
    """Return a notebook's Markdown as the site has it; its tables can be scrolled like others."""
    tables = STYLE.sub("", text).replace('<table border="1" class="dataframe">', "<table>")
    return site_text(re.sub(r"\n{4,}", "\n\n", tables), name, where, root)


def site_text(text: str, name: str, where: dict[str, str], root: Path) -> str:
    r"""Return Markdown with links as from its place, and `a\|b` in tables, which means a|b."""

    def relinked(found: re.Match[str]) -> str:
        path = found[2].partition("#")[0]
        if "://" not in path and not (root / name).parent.joinpath(path).exists():
            raise ValueError(f"{name}: {path} leads to no file.")
        return moved_link(found[1], found[2], name, where)

    return "\n".join(_prose(text, lambda line: _outside_code(line, relinked)))


def moved_link(words: str, link: str, name: str, where: dict[str, str]) -> str:
    """Return a link of the page `name` as Markdown, from its place to the target's place."""
    path, sign, heading = link.partition("#")
    if not path or "://" in link:
        return f"[{words}]({link})"
    target = os.path.normpath(PurePosixPath(name).parent / path)
    if target not in where:
        return f"`{target}`" if target.endswith(words.strip("`")) else f"{words} (`{target}`)"
    here = PurePosixPath(where[name]).parent
    return f"[{words}]({os.path.relpath(where[target], here)}{sign}{heading})"


def api_page(root: Path = ROOT) -> str:
    """Return the page of `flows.api` for mkdocstrings: its functions, then its classes."""
    tree = ast.parse((root / "flows/api/__init__.py").read_text(encoding="utf-8"))
    found = {
        alias.name: f"{node.module}.{alias.name}"
        for node in tree.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    names = sorted(found, key=lambda name: (name[0].isupper(), name))
    return "\n".join([API_HEAD, *(f"::: {found[name]}\n" for name in names)])


def navigation(contents: str, where: dict[str, str]) -> list[dict]:
    """Return MkDocs's navigation: the tables of infra/docs/README.md, and the project's pages.

    Raises ValueError for a page that stands in no table, and for a row without a page.
    """
    found: dict[str, list[dict[str, str]]] = {}
    title = ""
    for line in contents.splitlines():
        if heading := SECTION.match(line):
            title = heading[1]
        elif row := ROW.match(line):
            target = os.path.normpath(PurePosixPath(DOCS) / row[2])
            if target not in where:
                raise ValueError(f"{CONTENTS}: {row[2]} is no page; correct the row.")
            found.setdefault(title, []).append({row[1]: where[target]})
    named = {page for rows in found.values() for row in rows for page in row.values()}
    pages = {place for place in where.values() if place.endswith(".md")}
    if lost := sorted(pages - named - set((HOME | PROJECT).values())):
        raise ValueError(f"{CONTENTS} has no row for {', '.join(lost)}; add one to a table.")
    found["Reference"].append({"Python, with source": API})
    sections = {"Home": _listed(HOME)} | found | {"Project": _listed(PROJECT)}
    return [{title: rows} for title, rows in sections.items()]


def _listed(pages: dict[str, str]) -> list[dict[str, str]]:
    return [{title: page} for title, page in pages.items()]


def _name(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix()


def _prose(text: str, change: Callable[[str], str]) -> Iterator[str]:
    """Yield the lines of a page, changed where they are no code.

    What belongs to an item of a list is indented by 4, as Python-Markdown wants it.
    """
    fenced, offset = False, 0
    for line in text.split("\n"):
        item = ITEM.match(line)
        if item and not fenced:
            offset = item.end()
        elif line and not line.startswith(" "):
            offset = 0
        inside = not item and bool(offset) and line.startswith(" " * offset)
        body = line[offset:] if inside else line
        fenced ^= body.startswith("```")
        is_code = fenced or body.startswith(("    ", "```"))
        yield ("    " if inside else "") + (body if is_code else change(body))


def _outside_code(line: str, change: Callable[[re.Match[str]], str]) -> str:
    """Return a line with its links changed; code spans are kept, but for escapes in tables."""
    kept: list[str] = []

    def hide(found: re.Match[str]) -> str:
        kept.append(found[0].replace(r"\|", "|") if line.startswith("|") else found[0])
        return f"\0{len(kept) - 1}\0"

    changed = LINK.sub(change, CODE.sub(hide, line))
    return re.sub("\0(\\d+)\0", lambda found: kept[int(found[1])], changed)

"""The pages name only what exists: files, modules, links, anchors and images."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
DOCS = ROOT / "infra" / "docs"
LAYERS = ("flows", "tasks", "rlhf_core")
FOLDERS = (*LAYERS, "tests", "infra", "mlflow")
PAGES = sorted(
    [
        *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
        ROOT / "mlflow" / "README.md",
        ROOT / "infra" / "parity" / "README.md",
        *DOCS.rglob("*.md"),
    ]
)
KINDS = ("start", "concepts", "reference", "operate", "results")
PLACEHOLDER = "NAME"  # in a path that a reader is to fill in
OF_USERS = {"datasets.py"}  # files that a page speaks of and that a user may have


def name_of(page: Path) -> str:
    """Return a page's path in the repository."""
    return str(page.relative_to(ROOT))


each_page = pytest.mark.parametrize("page", PAGES, ids=name_of)


def without_code(text: str) -> str:
    """Return the text without fenced, indented and inline code, where brackets are no links."""
    text = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    return re.sub(r"`[^`\n]+`", lambda found: found[0].replace("](", "] ("), text)


def links(page: Path) -> list[str]:
    """Return the targets of all links and images of a page that are not web addresses."""
    found = re.findall(r"\]\(([^)\s]+)\)", without_code(page.read_text()))
    return [target for target in found if not target.startswith(("http://", "https://"))]


def target_of(page: Path, link: str) -> Path:
    """Return the file that a relative link leads to."""
    path = link.partition("#")[0]
    return (page.parent / path).resolve() if path else page


@cache
def anchors(page: Path) -> set[str]:
    """Return the anchors that GitHub makes of a page's headings."""
    found: set[str] = set()
    prose = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    for heading in re.findall(r"^#+ (.+)$", prose, flags=re.MULTILINE):
        slug = re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        repeats = sum(anchor == slug or anchor.startswith(f"{slug}-") for anchor in found)
        found.add(f"{slug}-{repeats}" if slug in found else slug)
    return found


@cache
def names_in(path: Path) -> set[str]:
    """Return the names that a Python file defines or imports."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            found.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
        elif isinstance(node, ast.ImportFrom):
            found |= {alias.asname or alias.name for alias in node.names}
    return found


def resolves(dotted: str) -> bool:
    """Check that a dotted name is a module of the project, or a name in one."""
    parts = re.split(r"[.:]", dotted)
    for size in range(len(parts), 0, -1):
        path = ROOT.joinpath(*parts[:size])
        rest = parts[size:]
        if path.with_suffix(".py").is_file():
            return not rest or rest[0] in names_in(path.with_suffix(".py"))
        if path.is_dir():
            return not rest or rest[0] in names_in(path / "__init__.py")
    return False


@each_page
def test_every_link_leads_to_a_file_and_to_a_heading_of_it(page):
    for link in links(page):
        target, _, anchor = link.partition("#")
        found = target_of(page, target)
        assert found.exists(), link
        if anchor:
            assert anchor in anchors(found), f"{link}: {sorted(anchors(found))}"


@each_page
def test_every_path_that_is_named_exists(page):
    text = page.read_text()
    named = re.findall(rf"(?<![\w./-])(?:{'|'.join(FOLDERS)})/[\w./*-]*\w", text)
    for path in {name.rstrip("/") for name in named if PLACEHOLDER not in name}:
        assert any(ROOT.glob(path)), path
    python_files = {path.name for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")}
    assert set(re.findall(r"(?<![\w./<{-])(\w+\.py)\b", text)) <= python_files | OF_USERS


@pytest.mark.parametrize(
    "page", [page for page in PAGES if page.name != "CHANGELOG.md"], ids=name_of
)
def test_every_module_and_function_that_is_named_exists(page):
    dotted = re.findall(rf"(?<![\w./-])(?:{'|'.join(LAYERS)})(?:\.\w+)+(?::\w+)?", page.read_text())
    for name in set(dotted):
        if PLACEHOLDER not in name and not name.endswith((".py", ".md")):
            assert resolves(name), name


def test_every_page_that_the_code_names_exists():
    named = [
        found
        for folder in FOLDERS
        for pattern in ("*.py", "*.toml", "*.yaml", "*.sh", "*.sbatch")
        for path in (ROOT / folder).rglob(pattern)
        for found in re.findall(r"infra/docs/[\w/-]+\.md", path.read_text())
    ]
    assert named and all((ROOT / name).is_file() for name in named), named


def test_every_page_can_be_reached_from_the_front_page():
    seen, waiting = set(), [ROOT / "README.md"]
    while waiting:
        page = waiting.pop()
        seen.add(page)
        found = {target_of(page, link) for link in links(page)}
        waiting += [path for path in found - seen if path.suffix == ".md"]
    assert set(PAGES) <= seen


def test_a_page_is_of_one_of_the_five_kinds():
    assert {path.relative_to(DOCS).parts[0] for path in DOCS.rglob("*.md")} == {"README.md", *KINDS}


def test_an_image_stands_beside_a_page_that_shows_it():
    for image in DOCS.rglob("*.png"):
        shown = {
            target_of(page, link) for page in image.parent.glob("*.md") for link in links(page)
        }
        assert image in shown, image


def test_the_front_page_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 130


def test_every_package_is_on_the_architecture_page():
    page = (DOCS / "concepts" / "architecture.md").read_text()
    for layer in LAYERS:
        for folder in (ROOT / layer).glob("*/__init__.py"):
            assert f"{folder.parent.name}/" in page, folder

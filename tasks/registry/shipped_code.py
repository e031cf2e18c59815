"""The code in the files of a registered version: a script for MLflow, and what it imports.

A version is loaded where this project is not installed, and versions of two releases in one
process. The modules that the script imports are therefore shipped with it, as a package in a zip
whose name holds the digest of their source; the script and the modules import from that name.
Python reads a zip without writing compiled files beside it, which would be files unknown to the
registry.
"""

import ast
import re
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path

from rlhf_core import ROOT
from rlhf_core.digest import digest_json
from tasks.records.run_record import ModelKind
from tasks.records.shipped import shipped

PACKAGE = "rlhf_core"
_FROM = re.compile(rf"^(\s*from ){PACKAGE}(?=[.\s])", re.M)
# two threads that parse at once raise SystemError in Python 3.11 (CPython issue 106905)
_PARSING = threading.Lock()


def write_code(kind: ModelKind, folder: Path) -> tuple[Path, Path]:
    """Write script and zip of a kind of model into `folder`; return their paths."""
    script = _script(kind)
    sources = imported_sources(script)
    name = f"{PACKAGE}_{digest_json(sources)[:12]}"
    written, archive = folder / script.name, folder / f"{name}.zip"
    written.write_text(_renamed(script.read_text(encoding="utf-8"), name), encoding="utf-8")
    with zipfile.ZipFile(archive, "w") as file:
        for path, source in sources.items():
            # an entry without a time of its own: the same source gives the same bytes
            file.writestr(zipfile.ZipInfo(f"{name}/{path}"), _renamed(source, name))
    return written, archive


def shipped_sources(kind: ModelKind) -> list:
    """Return the source of the script of a kind of model, and of the modules that it imports."""
    script = _script(kind)
    return [script.read_text(encoding="utf-8"), imported_sources(script)]


def imported_sources(script: Path) -> dict[str, str]:
    """Return the source of the project's modules that a script imports, by path in the package.

    They are in order of their paths, with what they import themselves.
    """
    sources: dict[str, str] = {}
    waiting = [script]
    while waiting:
        for file in _imports(waiting.pop()):
            path = file.relative_to(ROOT / PACKAGE).as_posix()
            if path not in sources:
                # the package's own file prepares `python -m rlhf_core`, which is not shipped
                sources[path] = "" if path == "__init__.py" else file.read_text(encoding="utf-8")
                waiting.append(file)
    return dict(sorted(sources.items()))


def _script(kind: ModelKind) -> Path:
    return shipped("mlflow") / f"{kind}_model.py"


def _imports(file: Path) -> Iterator[Path]:
    """Yield the files of the project's modules that a file imports, of their packages too."""
    with _PARSING:
        tree = ast.parse(file.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if not isinstance(node, ast.ImportFrom) or (node.module or "").split(".")[0] != PACKAGE:
            continue
        for name in (alias.name for alias in node.names):
            parts = [*str(node.module).split("."), name]
            for end in range(1, len(parts) + 1):
                base = ROOT.joinpath(*parts[:end])
                yield from filter(Path.is_file, (base.with_suffix(".py"), base / "__init__.py"))


def _renamed(source: str, name: str) -> str:
    """Return source that imports from the package under its shipped name."""
    return _FROM.sub(rf"\g<1>{name}", source)

"""Build the documentation as a site, without a network, and check it.

    .venv/stage/bin/python infra/docs-site/build_site.py

The pages, as build/docs-source has them, are built by Zensical, which ends at a broken link. What
it does not see (links to files and pictures, anchors of generated pages, anything that a browser
would load from elsewhere) is looked for in the built pages. Exit code 1 names what is wrong.
"""

import os
import shutil
import subprocess
from pathlib import Path

from docs_environment import prepare, python
from site_check import faults
from site_source import ROOT, notebook_text, places, write_source


def build(root: Path = ROOT) -> Path:
    """Build the site of a checkout in build/docs. Raises SystemExit with what is wrong."""
    source, out = root / "build" / "docs-source", root / "build" / "docs"
    for folder in (source, out):
        shutil.rmtree(folder, ignore_errors=True)
    source.mkdir(parents=True)
    where = places(root)
    for notebook in write_source(source, root):
        name = notebook.relative_to(root).as_posix()
        place = source / "pages" / where[name]
        words = ("--to", "markdown", str(notebook), "--output-dir", str(place.parent))
        _call(python("-m", "nbconvert", "--log-level", "ERROR", *words))
        text = notebook_text(place.read_text(encoding="utf-8"), name, where, root)
        place.write_text(text, encoding="utf-8")
    _call(python("-m", "zensical", "build", "--strict", "-f", str(source / "mkdocs.yml")))
    (source / "site").rename(out)
    if found := faults(out):
        raise SystemExit("\n".join(["the site has faults:", *found]))
    return out


def _call(command: list[str]) -> None:
    done = subprocess.run(command, env=os.environ | {"NO_COLOR": "1"})
    if done.returncode:
        raise SystemExit(f"{' '.join(command[5:7])} failed; the lines above say why.")


if __name__ == "__main__":
    prepare()
    site = build()
    print(f"{len(list(site.rglob('*.html')))} pages: {site / 'index.html'}")

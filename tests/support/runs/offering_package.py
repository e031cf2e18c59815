"""An installed package that offers functions as entry points."""

from pathlib import Path

import pytest


def install(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    offers: dict[str, dict[str, str]],
    source: str,
) -> Path:
    """Install a package of one module until the test ends; return the module's file.

    offers: group -> name -> 'module:function'.
    """
    monkeypatch.syspath_prepend(folder)
    about = folder / f"{name.replace('-', '_')}-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    lines = [
        f"[{group}]\n" + "".join(f"{key} = {value}\n" for key, value in named.items())
        for group, named in offers.items()
    ]
    (about / "entry_points.txt").write_text("\n".join(lines))
    file = folder / f"{name.replace('-', '_')}.py"
    file.write_text(source)
    return file

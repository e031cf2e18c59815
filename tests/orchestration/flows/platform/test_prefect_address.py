"""The place that names the Prefect server: environment, files of the current folder, profile."""

import subprocess
import sys

import pytest
from command_line import environment_of

from flows.platform import prefect_address

URL = "http://127.0.0.1:9/api"
FILES = {
    ".env": f"PREFECT_API_URL={URL}\n",
    "prefect.toml": f'[api]\nurl = "{URL}"\n',
    "pyproject.toml": f'[tool.prefect.api]\nurl = "{URL}"\n',
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_prefect_reads_is_found_by_prefect_and_named(tmp_path, monkeypatch, name):
    (tmp_path / name).write_text(FILES[name])
    code = (
        "from flows.platform.prefect_address import configured\n"
        "found = configured(); print(found.url, found.place, found.fix)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env=environment_of(tmp_path / "home"),
        cwd=tmp_path,
    )
    assert URL in done.stdout, done.stderr
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "prefect"))
    assert prefect_address.is_named()
    assert f"in {tmp_path / name}" in done.stdout and "remove " in done.stdout


def test_a_profile_is_named_with_its_file(tmp_path):
    profiles = tmp_path / "profiles.toml"
    profiles.write_text(f'active = "work"\n[profiles.work]\nPREFECT_API_URL = "{URL}"\n')
    found = prefect_address.in_files(URL, tmp_path, profiles)
    assert found and "'work'" in found.place and str(profiles) in found.place
    assert "prefect config unset PREFECT_API_URL" in found.fix


def test_the_environment_comes_first(monkeypatch):
    monkeypatch.setenv("PREFECT_API_URL", URL)
    found = prefect_address.in_environment(URL)
    assert found and found.place == "PREFECT_API_URL" and "unset PREFECT_API_URL" in found.fix


def test_a_folder_without_such_files_names_nothing(tmp_path, monkeypatch):
    assert prefect_address.in_files(URL, tmp_path, tmp_path / "profiles.toml") is None
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path))
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    assert not prefect_address.is_named()

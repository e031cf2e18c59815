"""A store of its own for each system test, and the `rlhf` command working on it."""

import json
import subprocess
from pathlib import Path

import psutil
import pytest
from command_line import RLHF, environment_of


class Workspace:
    """A store, and the `rlhf` command working on it."""

    def __init__(self, home: Path):
        self.home = home

    def start(self, *words: str) -> subprocess.Popen:
        return subprocess.Popen(
            [*RLHF, *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment_of(self.home),
        )

    def run(self, *settings: str, words: tuple[str, ...] = ()) -> tuple[int, dict, str]:
        """Run `rlhf run quickstart --json`; return exit code, JSON document and standard error."""
        flags = [flag for setting in settings for flag in ("--set", setting)]
        process = self.start("run", "quickstart", "--json", *flags, *words)
        out, err = process.communicate()
        return process.returncode, json.loads(out), err

    def run_dirs(self, stage: str) -> list[Path]:
        return list((self.home / "runs").glob(f"{stage}-*"))

    def result(self, stage: str) -> dict:
        (folder,) = self.run_dirs(stage)
        return json.loads((folder / "result.json").read_text())

    def processes(self) -> list[psutil.Process]:
        """Return every live process that works on this store."""
        found = []
        for process in psutil.process_iter():
            try:
                if (
                    process.environ().get("RLHF_HOME") == str(self.home)
                    and process.status() != psutil.STATUS_ZOMBIE
                ):
                    found.append(process)
            except psutil.Error:
                continue
        return found


@pytest.fixture(scope="session")
def open_workspace(tmp_path_factory):
    """Make empty workspaces in temporary folders."""
    return lambda: Workspace(tmp_path_factory.mktemp("system") / "home")

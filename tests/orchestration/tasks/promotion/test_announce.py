"""An announcement goes to the Prefect server that Prefect's own settings name."""

import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from rlhf_core import ROOT

PUBLISH = """
from tasks.promotion import announce
announce.publish(announce.PROMOTED, announce.model_resource("tiny-policy"), {"version": "1"})
"""


@contextlib.contextmanager
def listening() -> Iterator[socket.socket]:
    """Yield a socket that accepts connections, as the port of a Prefect server."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(30)
        yield server


def publish(folder: Path, home: Path) -> subprocess.Popen:
    """Announce from a program in `folder` with its own PREFECT_HOME."""
    environment = {key: value for key, value in os.environ.items() if key != "PREFECT_API_URL"}
    environment |= {"PREFECT_HOME": str(home), "PYTHONPATH": str(ROOT)}
    return subprocess.Popen([sys.executable, "-c", PUBLISH], cwd=folder, env=environment)


@pytest.mark.parametrize("place", [".env", "prefect.toml", "profile"])
def test_the_server_is_found_where_prefect_finds_it(tmp_path, place):
    with listening() as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}/api"
        home = tmp_path / "prefect"
        home.mkdir()
        name, text = {
            ".env": (".env", f"PREFECT_API_URL={url}\n"),
            "prefect.toml": ("prefect.toml", f'[api]\nurl = "{url}"\n'),
            "profile": (
                "prefect/profiles.toml",
                f'active = "own"\n[profiles.own]\nPREFECT_API_URL = "{url}"\n',
            ),
        }[place]
        (tmp_path / name).write_text(text)
        program = publish(tmp_path, home)
        try:
            connection, _ = server.accept()
            with connection:
                assert connection.recv(4096).startswith(b"GET /api/")
        finally:
            program.kill()
            program.wait()


def test_without_a_server_nothing_is_sent(tmp_path):
    assert publish(tmp_path, tmp_path / "prefect").wait(60) == 0

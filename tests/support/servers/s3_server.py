"""A real S3 server in a process of its own: moto's, on a free port, with an empty bucket."""

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

SECONDS_TO_START = 60.0


@dataclass
class S3Server:
    """A server that can be stopped and started again; it forgets its objects then."""

    port: int
    log: Path
    bucket: str = "team"
    process: subprocess.Popen | None = None

    @property
    def variables(self) -> dict[str, str]:
        """The variables with which every client of S3 finds the server."""
        return {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.port}",
            "AWS_ACCESS_KEY_ID": "user",
            "AWS_SECRET_ACCESS_KEY": "very-secret-key",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def use(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Have this process's clients find the server."""
        for name, value in self.variables.items():
            monkeypatch.setenv(name, value)
        forget_clients()

    def start(self) -> None:
        """Start the server, wait until it answers, and make the bucket."""
        words = ("moto.server", "-H", "127.0.0.1", "-p", str(self.port))
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", *words], stdout=output, stderr=output
            )
        end = time.monotonic() + SECONDS_TO_START
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port)):
                break
            assert time.monotonic() < end and self.process.poll() is None, self.log.read_text()
            time.sleep(0.1)
        self._make_bucket()

    def stop(self) -> None:
        """End the server by its process id."""
        if self.process:
            self.process.kill()
            self.process.wait()
            self.process = None

    def _make_bucket(self) -> None:
        import botocore.session

        values = self.variables
        client = botocore.session.Session().create_client(
            "s3",
            region_name=values["AWS_DEFAULT_REGION"],
            endpoint_url=values["AWS_ENDPOINT_URL"],
            aws_access_key_id=values["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=values["AWS_SECRET_ACCESS_KEY"],
        )
        client.create_bucket(Bucket=self.bucket)


def forget_clients() -> None:
    """Have the next client read the environment anew: fsspec keeps one for each set of options."""
    from s3fs import S3FileSystem

    S3FileSystem.clear_instance_cache()


@contextlib.contextmanager
def s3_server(folder: Path) -> Iterator[S3Server]:
    """Run a server during the block. folder: of its log."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = S3Server(port, folder / f"s3-{os.getpid()}.log")
    server.start()
    try:
        yield server
    finally:
        server.stop()

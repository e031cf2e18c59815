"""The servers behind a live model, in a file that the router reads when it changes."""

import json
import os
import random
from collections.abc import Sequence
from pathlib import Path

from rlhf_core.rundir import Frozen, write_atomically


class Route(Frozen):
    """A server of one version. model: the name under which it serves. share: percent of requests.

    address: the base address of its OpenAI API, with /v1. key: what it wants as a bearer token.
    """

    version: str
    model: str
    address: str
    key: str
    share: int


class RouteFile:
    """The routes in a file, read again when the file is another one."""

    def __init__(self, path: Path):
        self.path = path
        self._seen: tuple[int, int] | None = None
        self._routes: list[Route] = []

    def read(self) -> list[Route]:
        """Return the routes, the main one first; none while there is no file."""
        try:
            found = os.stat(self.path)
        except FileNotFoundError:
            return []
        if self._seen != (found.st_ino, found.st_mtime_ns):
            text = self.path.read_text(encoding="utf-8")
            self._routes = [Route.model_validate(each) for each in json.loads(text)]
            self._seen = (found.st_ino, found.st_mtime_ns)
        return self._routes

    def write(self, routes: Sequence[Route]) -> None:
        """Replace the routes; requests under way stay with the server that they have."""
        write_atomically(self.path, json.dumps([route.model_dump() for route in routes]))


def in_order(routes: Sequence[Route], draw: random.Random) -> list[Route]:
    """Return the route of one request, drawn by share, and after it those that may replace it."""
    if not routes:
        return []
    (first,) = draw.choices(routes, weights=[route.share for route in routes])
    return [first, *(route for route in routes if route != first)]

"""The steps of a deployed run as lines of its log, which Prefect's page shows."""

import contextlib
import io
import logging
from collections.abc import Callable, Iterator

from prefect.logging import get_run_logger
from rich.console import Console

from flows.progress.display import LiveDisplay
from tasks.records import events

PROGRESS_EVERY_S = 60.0


@contextlib.contextmanager
def steps_in_log() -> Iterator[None]:
    """Log a line as each step of this flow run starts, goes on, waits and ends.

    They are the lines that `rlhf run` prints where there is no terminal; those about progress are
    fewer.
    """
    log = get_run_logger()
    # PREFECT_LOGGING_LEVEL keeps out what Prefect says of each task
    logging.getLogger("prefect.flow_runs").setLevel(logging.INFO)
    end = events.subscribe(LiveDisplay(Console(file=_Lines(log.info)), PROGRESS_EVERY_S))
    try:
        yield
    finally:
        end()


class _Lines(io.StringIO):
    """A file that hands on what is written to it, line by line."""

    def __init__(self, take: Callable[[str], None]):
        super().__init__()
        self._take = take

    def write(self, text: str, /) -> int:
        for line in filter(str.strip, text.splitlines()):
            self._take(line)
        return len(text)

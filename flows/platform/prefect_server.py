"""`python -m flows.platform.prefect_server server start ...`: Prefect's own program, less a fault
that stops it for good.

On SQLite, Prefect 3.7.7's server waits in its event loop for a coroutine on another thread to take
in a new automation. If that loop is just looking at triggers, each waits for the other and the
server answers nobody any more, with no word in its log
(https://github.com/PrefectHQ/prefect/issues/23055). `rlhf deploy --notify` makes five automations.
PostgreSQL is not concerned.
"""

import asyncio
from collections.abc import Coroutine

from prefect.server.events.models import automations

_WAITS = "run_coro_as_sync"  # what the fault is about; a version without it has been mended
_tasks: set[asyncio.Task] = set()  # else a task may be collected before it has run


def mend() -> None:
    """Have the event loop take in a changed automation as soon as it is free, in place of waiting
    for it.
    """
    waits = getattr(automations, _WAITS, None)

    def soon(coroutine: Coroutine) -> None:
        try:
            task = asyncio.get_running_loop().create_task(coroutine)
        except RuntimeError:  # no loop in this thread, nothing to stop
            waits(coroutine)
            return
        _tasks.add(task)
        task.add_done_callback(_tasks.discard)

    if waits:
        setattr(automations, _WAITS, soon)


if __name__ == "__main__":
    from prefect.cli import app

    mend()
    app()

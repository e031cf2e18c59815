"""Run Prefect's own program without a deadlock of its server.

    python -m flows.platform.prefect_server server start ...

On SQLite, the event loop of Prefect 3.7.7's server waits for a coroutine on another thread when it
loads a new automation. If that loop is evaluating triggers at this moment, each waits for the
other. The server then never answers again, and its log says nothing
(https://github.com/PrefectHQ/prefect/issues/23055). `rlhf deploy --notify` makes six automations.
PostgreSQL is not affected. Prefect 3.9 leaves the waiting to the loop itself: seen with 3.9.1, the
Prefect of .venv. This is for one environment with vLLM, which has 3.7.7 at most.
"""

import asyncio
from collections.abc import Callable, Coroutine

from prefect.server.events.models import automations

_WAITS = "run_coro_as_sync"  # the function that waits; a version without it has no deadlock
_SOON = "create_task"  # a version with it waits only where no loop runs
_tasks: set[asyncio.Task] = set()  # keeps a task from being collected before it has run


def prevent_deadlock() -> None:
    """Have the event loop load a changed automation when it is free, instead of waiting for it."""
    waits: Callable[[Coroutine], object] | None = getattr(automations, _WAITS, None)
    if waits is None or hasattr(automations, _SOON):
        return

    def soon(coroutine: Coroutine) -> None:
        try:
            task = asyncio.get_running_loop().create_task(coroutine)
        except RuntimeError:  # no loop in this thread, so there is nothing to block
            waits(coroutine)
            return
        _tasks.add(task)
        task.add_done_callback(_tasks.discard)

    setattr(automations, _WAITS, soon)


if __name__ == "__main__":
    from prefect.cli import app

    prevent_deadlock()
    app()

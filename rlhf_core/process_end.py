"""End a process without Python's last garbage collections, which take two seconds after torch."""

import atexit
import gc
import logging
import os
import sys
from collections.abc import Callable
from typing import NoReturn

UNWRITTEN = 120  # Python's own exit code where standard output cannot be flushed
_code: list[int] = []  # the exit code, once the work has ended


def run_and_end(main: Callable[[], int]) -> NoReturn:
    """Call `main` and end this process with its exit code.

    Exit hooks that are registered after this call run, earlier ones do not. After an exception
    Python ends the process as usual.
    """
    atexit.register(_end)  # first: it is called last
    try:
        code = main()
    except SystemExit as end:  # as typer ends a command
        if not (end.code is None or isinstance(end.code, int)):
            raise
        code = end.code or 0
    _code.append(code)
    gc.collect = _collect_nothing  # vLLM's exit hook asks for it twice
    sys.exit(code)


def _collect_nothing(generation: int = 2) -> int:
    return 0


def _end() -> None:
    if not _code:
        return
    try:
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
    except OSError:  # the reader has gone, or the disk is full
        _code[0] = UNWRITTEN
    finally:
        os._exit(_code[0])

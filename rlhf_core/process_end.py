"""End a process at once when its work is done.

Python looks through all objects several times before it ends: two seconds once torch or MLflow is
imported.
"""

import atexit
import logging
import os
import sys
from collections.abc import Callable
from typing import NoReturn

_code: list[int] = []  # the exit code, once the work has ended


def run_and_end(main: Callable[[], int]) -> NoReturn:
    """Call `main` and end this process with its exit code.

    What libraries have registered with atexit since then is called. After an exception Python ends
    the process as usual.
    """
    atexit.register(_end)  # first: it is called last
    try:
        code = main()
    except SystemExit as end:  # as typer ends a command
        if not (end.code is None or isinstance(end.code, int)):
            raise
        code = end.code or 0
    _code.append(code)
    sys.exit(code)


def _end() -> None:
    if _code:
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(_code[0])

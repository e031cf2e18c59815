"""Call a function in the interpreter of the stages.

Where that is this process's own interpreter, it is a plain call. Else a helper process is asked,
which is started at the first call, keeps what it has imported, and ends with this process.

The calls are pickles, which this project loads nowhere else. Both ends of the pipe are processes of
one user and one code, and the one has started the other: nobody can write into it who could not run
code here anyway, and no file or address is read. JSON would need the type of each value at both
ends, for functions that take and give recipes, paths, tuples, frozen records and sets of them.
"""

import pickle
import subprocess
import sys
import tempfile
import threading
from functools import cache
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

from rlhf_core import errors
from rlhf_core.errors import LAST_LINES, BadInput, RLHFError, StageFailed
from rlhf_core.interpreter.answering import CallResult, running_code
from rlhf_core.interpreter.installed import package_folder
from tasks.execution.launcher import environment
from tasks.execution.stage_python import VARIABLE, is_separate, stage_python

MODULE = "rlhf_core.interpreter"


def ask(function: str, *arguments: Any, **named: Any) -> Any:
    """Return what 'module:function' returns in the interpreter of the stages.

    Raises what the function raises of this project's errors, BadInput for an interpreter that
    cannot run this code, and RLHFError for any other exception there.
    """
    if not is_separate():
        return _called_here(function, arguments, named)
    return helper(stage_python()).call(function, arguments, named)


def require_stages(who: str = "a run") -> None:
    """Raise BadInput unless the interpreter of the stages has torch, and the code of this one.

    who: needs torch, as the message says it.
    """
    if stages_torch() is None:
        raise _without_torch(who)


def stages_torch() -> Path | None:
    """Return the folder of torch in the interpreter of the stages, None where it is absent."""
    return ask("rlhf_core.interpreter.installed:package_folder", "torch")


def _called_here(function: str, arguments: tuple[Any, ...], named: dict[str, Any]) -> Any:
    try:
        return resolve_name(function)(*arguments, **named)
    except ImportError as error:
        if package_folder("torch") is None:  # the control side alone is installed
            raise _without_torch(function) from error
        raise


def _without_torch(who: str) -> BadInput:
    return BadInput(
        f"torch is not installed for {stage_python()}, and {who} needs it; expected an environment"
        f" with the locked requirements. Set {VARIABLE} to its Python, such as"
        " /opt/stage/bin/python, install them here (rlhf doctor says how), or do this where they"
        " are."
    )


def refusal(kind: str, message: str, code: str | None) -> RLHFError:
    """Return the error that another process has raised; BadInput for a kind that is not known."""
    known = getattr(errors, kind, None)
    if isinstance(known, type) and issubclass(known, RLHFError):
        return known(message, code=code)
    return BadInput(message, code=code)


@cache
def helper(python: str) -> "Helper":
    """Return the helper process of an interpreter. Raises BadInput when it has other code."""
    found = Helper(python)
    theirs = found.call("rlhf_core.interpreter.answering:running_code", (), {})
    if theirs != running_code():
        found.end()
        raise BadInput(
            f"{VARIABLE} is {python}, whose rlhf_core is not the one of {sys.executable}; expected"
            " the same release in both environments. Install the same wheel or checkout there."
        )
    return found


class Helper:
    """A process of another interpreter that answers calls, one at a time."""

    def __init__(self, python: str):
        self._python = python
        self._lock, self._has_answered = threading.Lock(), False
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - as long as the process
        self._process = subprocess.Popen(
            [python, "-m", MODULE],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env=environment(),
            start_new_session=True,  # Ctrl-C of the terminal is for this process
        )

    def call(self, function: str, arguments: tuple[Any, ...], named: dict[str, Any]) -> Any:
        """Return what the function returns there; raises as `ask` does."""
        asked, given = self._process.stdin, self._process.stdout
        assert asked is not None and given is not None  # started with pipes
        with self._lock:
            try:
                pickle.dump((function, arguments, named), asked)
                asked.flush()
                answer: CallResult = pickle.load(given)
            except (OSError, EOFError, pickle.UnpicklingError, ImportError, AttributeError):
                raise self._has_ended(function) from None
            self._has_answered = True
        if answer.error:
            raise refusal(*answer.error)
        if answer.failed:
            error = RLHFError(f"{function} failed in {self._python}: {answer.failed}")
            error.add_note(answer.traceback)
            raise error
        return answer.value

    def end(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.communicate()
        self._errors.close()

    def _has_ended(self, function: str) -> RLHFError:
        self._process.kill()
        code = self._process.wait()
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").splitlines()[-LAST_LINES:]
        helper.cache_clear()  # the next call starts another one
        kind = StageFailed if self._has_answered else BadInput  # what has answered can run the code
        return kind(
            "\n  ".join(
                [
                    f"{self._python}, the interpreter of the stages ({VARIABLE}), cannot answer"
                    f" {function}: it ended with exit code {code}. Expected an environment with the"
                    " locked requirements and this project; rlhf doctor says what is missing."
                    " Its last lines:",
                    *lines,
                ]
            )
        )

"""Answer calls of the control side: `python -m rlhf_core.interpreter`.

Commands, flows, tracking and registry need no torch. What needs it they ask here, in the
interpreter of the stages (tasks/execution/stage_calls.py). A call is a pickled ('module:function',
arguments, named arguments) on standard input, its answer a pickled CallResult on standard output:
both ends are this code, and one has started the other. The process ends with its standard input.
"""

import os
import pickle

from rlhf_core.interpreter.answering import CallResult, answer
from rlhf_core.interpreter.rare_collection import collect_rarely
from rlhf_core.process_end import run_and_end


def main() -> int:
    """Answer every call on standard input; return the exit code."""
    collect_rarely()
    calls, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)  # a child must not read a call
    os.dup2(2, 1)  # what a library prints must not stand between two answers
    while True:
        try:
            name, arguments, named = pickle.load(calls)
        except EOFError:
            return 0
        try:
            given = pickle.dumps(answer(name, arguments, named))
        except Exception as error:  # a value that no process can hand to another
            given = pickle.dumps(CallResult(failed=f"{name} gave what cannot be sent: {error}"))
        answers.write(given)
        answers.flush()


if __name__ == "__main__":
    run_and_end(main)

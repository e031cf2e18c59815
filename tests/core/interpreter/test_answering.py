"""A call by name gives a value, an error of this project, or what else was raised."""

import pickle
import subprocess
import sys

from rlhf_core.digest import code_digest
from rlhf_core.interpreter.answering import CallResult, answer, running_code


def test_a_call_gives_its_value():
    assert answer("operator:add", (2, 3), {}) == CallResult(5)
    assert answer("builtins:int", ("ff",), {"base": 16}).value == 255


def test_an_error_of_this_project_keeps_its_class_and_its_code():
    result = answer("rlhf_core.rundir:read_result", (), {})
    assert result.error is None and result.failed.startswith("TypeError")
    result = answer("rlhf_core.prepare:find_gguf", ("no_such_package",), {})
    assert result.error[0] == "BadInput" and "is not installed" in result.error[1]


def test_a_module_that_is_missing_is_bad_input_that_names_it():
    kind, message, _ = answer("no_such_module:f", (), {}).error
    assert kind == "BadInput" and "no_such_module" in message and "rlhf doctor" in message


def test_any_other_exception_is_told_with_its_traceback():
    result = answer("operator:truediv", (1, 0), {})
    assert result.failed == "ZeroDivisionError: division by zero"
    assert "Traceback" in result.traceback


def test_the_code_that_runs_is_that_of_this_package():
    assert running_code() == code_digest()


def test_the_process_answers_calls_in_order_whatever_is_printed():
    calls = [
        ("builtins:print", ("noise",), {}),
        ("operator:add", (1, 1), {}),
        ("os:getpid", (), {}),
    ]
    done = subprocess.run(
        [sys.executable, "-m", "rlhf_core.interpreter"],
        input=b"".join(map(pickle.dumps, calls)),
        capture_output=True,
        check=True,
    )
    given = done.stdout
    first = pickle.loads(given)
    second = pickle.loads(given[len(pickle.dumps(first)) :])
    assert first == CallResult(None) and second == CallResult(2)
    assert done.stderr == b"noise\n"

"""Functions that need torch run in the interpreter of the stages."""

import os
import sys
from pathlib import Path

import pytest
from other_python import other_python

from flows.cli.output import warn_without_stages
from flows.iterate import plan
from flows.iterate.plan import IterationOptions
from flows.sweeps import grid
from flows.sweeps.grid import SweepRequest
from rlhf_core.errors import BadInput, RLHFError, StageFailed
from rlhf_core.rundir import Artifact
from tasks.execution import stage_calls
from tasks.execution.stage_calls import ask, helper, require_stages
from tasks.execution.stage_python import VARIABLE


@pytest.fixture(scope="module")
def separate(tmp_path_factory) -> Path:
    """The interpreter of another environment."""
    return other_python(tmp_path_factory.mktemp("stage"))


@pytest.fixture
def other(separate, monkeypatch) -> Path:
    """That interpreter, named for the stages."""
    monkeypatch.setenv(VARIABLE, str(separate))
    return separate


def program(tmp_path: Path, *lines: str) -> str:
    file = tmp_path / "bin" / "python"
    file.parent.mkdir()
    file.write_text("\n".join(["#!/bin/sh", *lines]))
    file.chmod(0o755)
    return str(file)


def test_the_interpreters_own_function_is_called_in_this_process(monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)
    assert ask("os:getpid") == os.getpid()


def test_a_helper_of_the_other_interpreter_answers_every_call(other):
    process = ask("os:getpid")
    assert process not in (os.getpid(), None) and ask("os:getpid") == process
    assert ask("os:readlink", f"/proc/{process}/cwd") == os.getcwd()
    assert Path(ask("sysconfig:get_path", "scripts")) == other.parent


def test_values_of_this_project_go_there_and_back(other, tmp_path):
    (tmp_path / "file").write_text("text")
    artifact = Artifact.of(tmp_path / "file")
    assert ask("rlhf_core.rundir:Artifact.of", artifact.path) == artifact


def test_an_error_there_is_the_same_error_here(other):
    with pytest.raises(BadInput, match="package 'no_such' is not installed"):
        ask("rlhf_core.prepare:find_gguf", "no_such")


def test_any_other_exception_there_names_the_function_and_is_no_value(other):
    with pytest.raises(
        RLHFError, match=r"operator:truediv failed in .*ZeroDivisionError"
    ) as caught:
        ask("operator:truediv", 1, 0)
    assert not isinstance(caught.value, BadInput) and "Traceback" in caught.value.__notes__[0]


def test_a_helper_that_dies_is_told_and_the_next_call_starts_another(other):
    before = ask("os:getpid")
    with pytest.raises(StageFailed, match="os:_exit: it ended with exit code 7"):
        ask("os:_exit", 7)
    assert ask("os:getpid") != before


def test_an_interpreter_that_cannot_run_this_code_is_refused_with_its_last_lines(
    monkeypatch, tmp_path
):
    named = program(tmp_path, "echo no such module >&2", "exit 3")
    monkeypatch.setenv(VARIABLE, named)
    with pytest.raises(BadInput, match=r"exit code 3.*rlhf doctor.*\n  no such module"):
        require_stages()


def test_an_interpreter_with_another_release_is_refused(monkeypatch, other):
    helper.cache_clear()
    monkeypatch.setattr(stage_calls, "running_code", lambda: "another")
    with pytest.raises(BadInput, match=r"is not the one of .* expected the same release"):
        ask("os:getpid")


def test_an_environment_without_torch_runs_no_stages(monkeypatch, tmp_path, capsys):
    python = other_python(tmp_path / "bare")
    (libraries,) = tmp_path.glob("bare/lib/python*/site-packages/libraries.pth")
    libraries.unlink()
    monkeypatch.setenv(VARIABLE, str(python))
    said = f"torch is not installed for {python}"
    sweep = SweepRequest(["ppo.beta=0.1,0.2"], [], "evaluate", [], 2)
    loop = IterationOptions(1, 100, ("onpolicy",), "random")
    for asked in (
        require_stages,
        lambda: grid.make_plan("quickstart", sweep),
        lambda: plan.make_plan("quickstart", [], loop),
    ):
        with pytest.raises(BadInput, match=said):
            asked()
    warn_without_stages()
    warned = capsys.readouterr().err
    assert warned.count("\n") == 1 and f"warning: runs cannot start here: {said}" in warned
    monkeypatch.setenv(VARIABLE, sys.executable)
    require_stages()
    warn_without_stages()
    assert capsys.readouterr().err == ""


def test_what_needs_torch_is_refused_where_the_control_side_alone_is_installed(monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)
    with pytest.raises(ImportError):
        ask("no_such_module:function")
    monkeypatch.setattr(stage_calls, "package_folder", lambda name: None)
    with pytest.raises(BadInput, match=r"torch is not installed .* no_such_module:function needs"):
        ask("no_such_module:function")

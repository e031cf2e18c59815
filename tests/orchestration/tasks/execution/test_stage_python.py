"""The interpreter of the stages: by default this one, else the one that is named."""

import os
import sys
from pathlib import Path

import pytest

from rlhf_core import ROOT
from rlhf_core.config import Distributed
from rlhf_core.config.stage_configs import StageConfig
from rlhf_core.errors import BadInput
from rlhf_core.rundir import StageSpec
from tasks.execution import launcher, stage_process
from tasks.execution.stage_python import (
    VARIABLE,
    is_separate,
    keep_absolute,
    stage_python,
    stage_variables,
)


@pytest.fixture
def program(tmp_path) -> Path:
    """A program in another folder than this interpreter's."""
    file = tmp_path / "bin" / "python"
    file.parent.mkdir()
    file.write_text("#!/bin/sh\n")
    file.chmod(0o755)
    return file


def spec(ranks: int) -> StageSpec:
    return StageSpec(stage="sft", seed=1, config=StageConfig(ranks=ranks), inputs={}, code="")


def test_stages_run_with_this_interpreter_unless_another_is_named(monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)
    assert stage_python() == sys.executable and not is_separate() and stage_variables() == {}


def test_the_environment_within_this_one_is_taken_where_it_is_there(monkeypatch, program):
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setattr(sys, "prefix", str(program.parents[1]))
    assert stage_python() == sys.executable
    within = program.parents[1] / "stage" / "bin" / "python"
    within.parent.mkdir(parents=True)
    program.rename(within)
    assert stage_python() == str(within) and is_separate()


def test_every_command_of_a_stage_starts_with_the_named_interpreter(monkeypatch, program):
    monkeypatch.setenv(VARIABLE, str(program))
    assert stage_process.command_of(spec(1), None) == (str(program), "-m", "rlhf_core")
    assert launcher.command(spec(2), Distributed(ranks=2))[0] == str(program)


def test_the_named_interpreter_finds_this_checkout(monkeypatch, program):
    monkeypatch.setenv(VARIABLE, str(program))
    monkeypatch.setenv("PYTHONPATH", "/elsewhere")
    wanted = os.pathsep.join([str(ROOT), "/elsewhere"])
    assert launcher.environment()["PYTHONPATH"] == wanted


def test_this_interpreter_by_another_name_is_the_same_environment(monkeypatch):
    other = next(Path(sys.executable).parent.glob("python3*"))
    monkeypatch.setenv(VARIABLE, str(other))
    assert not is_separate()


@pytest.mark.parametrize("name", ["no/such/python", "."])
def test_a_path_to_no_program_is_refused_with_what_was_found(monkeypatch, tmp_path, name):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(VARIABLE, name)
    with pytest.raises(BadInput, match=rf"{VARIABLE} is '{name}', and {tmp_path}.* is no program"):
        stage_python()


def test_a_relative_path_is_kept_for_processes_in_other_folders(monkeypatch, program, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(VARIABLE, "bin/python")
    keep_absolute()
    monkeypatch.chdir("/")
    assert stage_python() == str(program)

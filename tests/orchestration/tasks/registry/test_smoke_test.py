"""Promotion and rollback where no torch is installed: the record of an earlier smoke test."""

import json
import subprocess

import pytest
from command_line import environment_of
from control_environment import python_of_commands
from promotion_checks import champions, files, refused

from rlhf_core.errors import BadInput
from rlhf_core.interpreter import installed
from tasks.execution.stage_python import VARIABLE
from tasks.promotion.candidates import promoted_copy
from tasks.promotion.promotion import PromotionRequest, promote, rollback
from tasks.promotion.rehearsal import rehearse_promotion
from tasks.registry import smoke_test
from tasks.registry.versions import served_files


@pytest.fixture
def absent(monkeypatch) -> None:
    """Have no torch found in the interpreter of the stages."""
    monkeypatch.setattr(installed, "package_folder", lambda name: None)


def smoke_tested(registry, number: str) -> None:
    """Test a policy as a run does at its end."""
    version = registry.version("policy", number)
    with served_files(registry.workspace, version) as folder:
        smoke_test.smoke_test(registry.client, version, folder)


def test_a_version_that_was_tested_is_promoted_and_its_record_is_named(registry, request):
    smoke_tested(registry, "2")
    request.getfixturevalue("absent")
    assert rehearse_promotion(registry, PromotionRequest(version="2")).steps[-1].reason == (
        "torch is not installed here; an earlier test of the same bytes is recorded"
    )
    reason = promote(registry, PromotionRequest(version="2")).reason
    assert "not loaded here, where torch is not installed, but loaded and run on 20" in reason
    assert champions(registry) == ("2", "1", "1", None)
    assert rollback(registry, PromotionRequest()).version == "1"  # tested when it was promoted


def test_a_version_without_a_test_is_refused_before_anything_moves(registry, absent):
    rehearsed = rehearse_promotion(registry, PromotionRequest(version="2"))
    assert not rehearsed.allowed and "no smoke test of these bytes" in rehearsed.reason
    with refused(registry, "torch is not installed for .* no smoke test of these bytes"):
        promote(registry, PromotionRequest(version="2"))


@pytest.mark.parametrize("tag", ["digest", "loaded_digest"])
def test_a_test_of_other_bytes_does_not_count(tag, registry):
    smoke_tested(registry, "2")
    found = registry.version("policy", "2")
    assert smoke_test.recorded(found)
    found.tags[tag] = "0" * 64
    assert smoke_test.recorded(found) is None
    found.tags[smoke_test.TAG] = "yes"
    assert smoke_test.recorded(found) is None


def test_a_record_lasts_when_the_same_run_registers_again_with_other_gates(registrar):
    registry = registrar.registry
    smoke_tested(registry, "2")
    gates = (files(registry, "2") / "gates.json").read_bytes()
    registrar.policy(2)
    assert (files(registry, "2") / "gates.json").read_bytes() != gates
    assert smoke_test.recorded(registry.version("policy", "2"))


def test_a_candidate_needs_torch_for_its_copy(registrar, absent):
    registrar.candidate_of = "tiny"
    number = registrar.policy(2)
    with pytest.raises(BadInput, match=r"torch is not installed .* the copy of a candidate needs"):
        promoted_copy(registrar.registry, "policy", number)


def test_the_environment_of_commands_promotes_and_rolls_back(registry, home):
    """As on a laptop: it stands for the interpreter of the stages too, and has no torch."""
    environment = environment_of(home) | {VARIABLE: str(python_of_commands())}
    program = python_of_commands().with_name("rlhf")

    def call(*words: str) -> subprocess.CompletedProcess:
        return subprocess.run([program, *words], env=environment, capture_output=True, text=True)

    smoke_tested(registry, "2")
    done = call("promote", "tiny", "2")
    assert done.returncode == 0 and champions(registry) == ("2", "1", "1", None), done.stderr
    done = call("rollback", "tiny", "--json")
    assert (done.returncode, json.loads(done.stdout)["version"]) == (0, "1"), done.stderr
    done = call("promote", "tiny", "3")
    assert done.returncode == 3 and "no smoke test of these bytes is recorded" in done.stderr
    assert "RLHF-P005" in done.stderr and champions(registry) == ("1", None, "1", None)

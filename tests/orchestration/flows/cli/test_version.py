"""`rlhf --version` says the version, the origin of the code, and the locked requirements."""

import re

import pytest
from command_line import rlhf_exit_code

from flows.cli import version
from rlhf_core import __version__
from rlhf_core.digest import digest_file
from tasks.records import provenance, shipped


@pytest.fixture
def printed(tmp_path, monkeypatch, capfd):
    """Run the command line without a workspace; return what it prints."""
    monkeypatch.setenv("RLHF_HOME", str(tmp_path))

    def run(*words: str) -> str:
        assert rlhf_exit_code(*words) == 0
        return capfd.readouterr().out

    return run


def test_a_checkout_names_its_commit_and_its_lock(printed):
    first, where, lock = printed("--version").splitlines()
    assert first == f"rlhf-pipeline {__version__}"
    commit, dirty = provenance.git_state()
    assert where.startswith((f"commit {commit}", "files sha256:"))
    assert where.endswith(", with uncommitted changes") == dirty
    name, digest = re.fullmatch(r"lock (\w+\.txt) sha256:(\w{64})", lock).groups()
    assert digest == digest_file(shipped.shipped("infra/requirements") / name)


def test_where_there_is_no_commit_the_digest_of_the_files_is_named(printed, monkeypatch):
    monkeypatch.setattr(provenance, "is_installed", lambda: True)
    monkeypatch.delenv("RLHF_COMMIT", raising=False)
    assert printed("--version").splitlines()[1] == f"files sha256:{shipped.code_files_digest()}"


def test_help_of_the_program_names_it(printed):
    assert "--version" in printed("--help") and version.show(False) is None

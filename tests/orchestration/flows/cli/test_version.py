"""`rlhf --version` says the version, the origin of the code, and the locked requirements."""

import re

from flows.cli import version
from rlhf_core import __version__
from rlhf_core.digest import digest_file
from tasks.records import provenance, shipped


def test_a_checkout_names_its_commit_and_its_lock(rlhf):
    code, out, _ = rlhf("--version")
    first, where, lock = out.splitlines()
    assert code == 0 and first == f"rlhf-pipeline {__version__}"
    commit, dirty = provenance.git_state()
    assert where.startswith((f"commit {commit}", "files sha256:"))
    assert where.endswith(", with uncommitted changes") == dirty
    name, digest = re.fullmatch(r"lock (\w+\.txt) sha256:(\w{64})", lock).groups()
    assert digest == digest_file(shipped.shipped("infra/requirements") / name)


def test_where_there_is_no_commit_the_digest_of_the_files_is_named(rlhf, monkeypatch):
    monkeypatch.setattr(provenance, "is_installed", lambda: True)
    monkeypatch.delenv("RLHF_COMMIT", raising=False)
    _, out, _ = rlhf("--version")
    assert out.splitlines()[1] == f"files sha256:{shipped.code_files_digest()}"


def test_help_of_the_program_names_it(rlhf):
    assert "--version" in rlhf("--help")[1] and version.show(False) is None

"""The commit of this source tree is found whoever owns it."""

import os
import subprocess

import pytest

from rlhf_core import __version__
from tasks.records import provenance
from tasks.records.shipped import code_files_digest


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """A clone of one commit, in place of this source tree."""

    def git(*words: str) -> str:
        done = subprocess.run(
            ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b", *words],
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout.strip()

    git("init", "-q")
    (tmp_path / "file").write_text("text")
    git("add", "file")
    git("commit", "-q", "-m", "first")
    monkeypatch.setattr(provenance, "ROOT", tmp_path)
    monkeypatch.delenv("RLHF_COMMIT", raising=False)
    return tmp_path, git("rev-parse", "HEAD")


def test_a_clean_tree_gives_its_commit(tree):
    assert provenance.git_state() == (tree[1], False)


def test_a_changed_tree_is_dirty(tree):
    (tree[0] / "file").write_text("other")
    assert provenance.git_state() == (tree[1], True)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a tree to another user")
def test_a_tree_of_another_user_gives_its_commit(tree, monkeypatch):
    folder, commit = tree
    for path in [folder, *folder.rglob("*")]:
        os.chown(path, 12345, 12345)
    refused = subprocess.run(["git", "-C", str(folder), "status"], capture_output=True, text=True)
    assert "dubious ownership" in refused.stderr
    assert provenance.git_state() == (commit, False)


def test_outside_git_the_version_and_the_digest_of_the_files_stand_for_the_commit(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(provenance, "ROOT", tmp_path)
    monkeypatch.delenv("RLHF_COMMIT", raising=False)
    commit = f"{__version__}+{code_files_digest()[:12]}"
    assert provenance.git_state() == (commit, False)
    assert provenance.short_commit(commit) == f"{__version__}-{code_files_digest()[:7]}"


def test_a_wheel_in_the_repository_of_other_code_does_not_take_its_commit(tree, monkeypatch):
    monkeypatch.setattr(provenance, "is_installed", lambda: True)
    commit, dirty = provenance.git_state()
    assert commit.startswith(f"{__version__}+") and not dirty

"""The commit of this source tree is found whoever owns it."""

import os
import subprocess

import pytest

from tasks.records import provenance


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


def test_outside_git_the_commit_is_unknown(tmp_path, monkeypatch):
    monkeypatch.setattr(provenance, "ROOT", tmp_path)
    monkeypatch.delenv("RLHF_COMMIT", raising=False)
    assert provenance.git_state() == ("unknown", True)

"""Passwords of new accounts: given in the environment, or random in a private file."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from rlhf_core.errors import BadInput
from tasks.access.passwords import password_of, password_variable


def test_a_random_password_is_in_a_private_file_and_stays(tmp_path, monkeypatch):
    monkeypatch.delenv("RLHF_PASSWORD_ANN", raising=False)
    folder = tmp_path / "passwords"
    made = password_of("ann", folder)
    assert len(made) >= 12 and password_of("ann", folder) == made != password_of("bob", folder)
    assert (folder / "ann").stat().st_mode & 0o777 == 0o600
    assert folder.stat().st_mode & 0o777 == 0o700


def test_the_environment_gives_a_password_which_is_written_nowhere(tmp_path, monkeypatch):
    assert password_variable("ann@example.org") == "RLHF_PASSWORD_ANN_EXAMPLE_ORG"
    monkeypatch.setenv("RLHF_PASSWORD_ANN", "a long enough one")
    assert password_of("ann", tmp_path / "passwords") == "a long enough one"
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setenv("RLHF_PASSWORD_ANN", "short")
    with pytest.raises(BadInput, match="has 5 characters; expected at least 12"):
        password_of("ann", tmp_path)


def test_several_at_once_get_the_same_password(tmp_path, monkeypatch):
    monkeypatch.delenv("RLHF_PASSWORD_ANN", raising=False)
    with ThreadPoolExecutor(8) as threads:
        found = set(threads.map(lambda _: password_of("ann", tmp_path / "made"), range(8)))
    assert len(found) == 1 and [file.name for file in (tmp_path / "made").iterdir()] == ["ann"]


def test_a_file_without_a_whole_password_is_refused(tmp_path, monkeypatch):
    monkeypatch.delenv("RLHF_PASSWORD_ANN", raising=False)
    (tmp_path / "ann").touch()
    with pytest.raises(BadInput, match="ann has a password of 0 characters; expected at least 12"):
        password_of("ann", tmp_path)


def test_a_folder_that_cannot_be_used_is_refused(tmp_path, monkeypatch):
    monkeypatch.delenv("RLHF_PASSWORD_ANN", raising=False)
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(BadInput, match=r"cannot be kept in .*--passwords FOLDER"):
            password_of("ann", folder)

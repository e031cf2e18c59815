"""The files beside the packages are found in a checkout and in a wheel."""

import shutil

import pytest

from rlhf_core import ROOT
from tasks.records import shipped


@pytest.fixture
def wheel(tmp_path, monkeypatch):
    """A folder of installed packages, in place of this checkout."""
    for package in shipped.PACKAGES:
        (tmp_path / package).mkdir()
        (tmp_path / package / "code.py").write_text(package)
    monkeypatch.setattr(shipped, "ROOT", tmp_path)
    monkeypatch.setattr(shipped, "COPIES", tmp_path / "tasks" / "shipped")
    for name in shipped.FOLDERS:
        shutil.copytree(ROOT / name, tmp_path / name)
    yield tmp_path
    shipped.code_files_digest.cache_clear()


def digest() -> str:
    shipped.code_files_digest.cache_clear()
    return shipped.code_files_digest()


def test_in_a_checkout_the_files_are_in_their_folders():
    assert not shipped.is_installed()
    assert shipped.shipped("mlflow") == ROOT / "mlflow"
    names = ("cpu", "gpu", "platform", "ray")
    assert [lock.name for lock in shipped.locks()] == [f"{name}.txt" for name in names]


def test_a_wheel_has_the_digest_of_the_tree_that_it_was_built_from(wheel):
    of_tree = digest()
    for name in shipped.FOLDERS:
        shutil.move(wheel / name, shipped.COPIES / name)
    (shipped.COPIES / "mlflow" / "README.md").unlink()  # a wheel has the models' code alone
    (wheel / "flows" / "__pycache__").mkdir()
    (wheel / "flows" / "__pycache__" / "code.pyc").write_text("compiled")
    assert shipped.is_installed() and shipped.shipped("mlflow").is_relative_to(shipped.COPIES)
    assert digest() == of_tree


def test_a_changed_file_of_a_package_or_a_model_changes_the_digest(wheel):
    found = {digest()}
    (wheel / "flows" / "code.py").write_text("changed")
    found.add(digest())
    (wheel / "mlflow" / "policy_model.py").write_text("changed")
    found.add(digest())
    assert len(found) == 3

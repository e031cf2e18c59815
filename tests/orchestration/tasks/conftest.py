"""Inputs of stages as folders of a few bytes, and the folder that recipes may read."""

from pathlib import Path

import pytest
from recipes import MODEL_FILES

from rlhf_core.data.splits import SPLITS
from rlhf_core.rundir import Artifact


@pytest.fixture
def have(tmp_path):
    """Everything a stage may take, each a folder of its own content."""
    names = ("base", "sft", "reward", "policy", "files", *SPLITS)
    for name in names:
        (tmp_path / name).mkdir()
        (tmp_path / name / "data.jsonl").write_text(name)
        for file in MODEL_FILES:
            (tmp_path / name / file).write_text("{}")
    return {name: Artifact.of(tmp_path / name) for name in names}


@pytest.fixture
def confined(tmp_path, monkeypatch) -> Path:
    """The only folder that recipes may read."""
    root = tmp_path / "allowed"
    root.mkdir()
    monkeypatch.setenv("RLHF_ALLOWED_ROOTS", f"{root}:{tmp_path / 'more'}")
    return root

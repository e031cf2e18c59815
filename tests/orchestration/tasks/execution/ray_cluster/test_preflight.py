"""A run whose cluster cannot be used is refused before its first stage."""

import subprocess

import pytest

from rlhf_core.config import Distributed
from rlhf_core.errors import BadInput
from tasks.execution.ray_cluster.preflight import require_cluster


def test_a_missing_package_is_refused_before_anything_runs(monkeypatch, tmp_path):
    monkeypatch.setenv("PYTHONPATH", "")
    with pytest.raises(BadInput, match=r"^distributed\.launcher is 'ray', and the package ray is"):
        require_cluster(Distributed(ranks=2, launcher="ray"), tmp_path)


def test_deepspeeds_launcher_needs_no_cluster(monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr(subprocess, "run", lambda *words, **_: asked.append(words))
    require_cluster(Distributed(ranks=2), tmp_path)
    assert asked == []

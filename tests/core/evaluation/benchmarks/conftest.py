"""The tiny model as the harness asks it, and task files over its words."""

from collections.abc import Callable
from pathlib import Path

import pytest
from benchmark_tasks import CHOICES, write_task

from rlhf_core.config import Evaluate, Sampling
from rlhf_core.data.tokenizer import load_tokenizer
from rlhf_core.evaluation.benchmarks.harness import LoadedTask, load_task
from rlhf_core.evaluation.benchmarks.language_model import BenchmarkedModel
from rlhf_core.evaluation.replies import Setup

SAMPLING = Sampling(engine="transformers", max_new_tokens=12, kv_cache_mib=8)


@pytest.fixture
def make_task(tmp_path) -> Callable[..., LoadedTask]:
    """Write a task file with its items, and load it."""

    def make(name: str = "choose", text: str = CHOICES, count: int = 12) -> LoadedTask:
        return load_task(name, write_task(tmp_path / "tasks" / name, text, count).parent)

    return make


@pytest.fixture
def setup(tiny_model) -> Callable[..., Setup]:
    """Make the setup of an evaluation of the tiny model, with these settings of benchmarks."""

    def make(*, packing: bool = False, **benchmarks: object) -> Setup:
        config = Evaluate(
            sampling=SAMPLING, benchmarks=benchmarks, micro_batch_tokens=64, packing=packing
        )
        return Setup(load_tokenizer(tiny_model), [], config, seed=1, dtype="float32")

    return make


@pytest.fixture
def asked(setup, tiny_model) -> Callable[..., BenchmarkedModel]:
    """Make the tiny model as lm-eval asks it."""

    def make(path: Path = tiny_model, **settings: object) -> BenchmarkedModel:
        return BenchmarkedModel(setup(**settings), "policy", path)

    return make

"""The results of the evaluation's models on its benchmarks, kept between runs."""

import contextlib
import logging
import os
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

from pydantic import ValidationError

from rlhf_core.batching.collective import gathered
from rlhf_core.benchmarks.names import input_name
from rlhf_core.config.stage_configs import EvaluateStageConfig
from rlhf_core.digest import digest_json
from rlhf_core.evaluation.benchmarks.harness import (
    BenchmarkItems,
    LoadedTask,
    load_task,
    measure_items,
)
from rlhf_core.evaluation.benchmarks.language_model import BenchmarkedModel
from rlhf_core.evaluation.replies import Setup
from rlhf_core.patterns import fixed_folder
from rlhf_core.ranks import is_rank_zero
from rlhf_core.rundir import StageSpec, write_atomically

log = logging.getLogger("rlhf.benchmarks")
ItemsByModel = dict[str, BenchmarkItems]


def benchmark_results(
    spec: StageSpec[EvaluateStageConfig], setup: Setup, models: dict[str, Path], cache: Path
) -> dict[str, ItemsByModel]:
    """Return each model's results on each benchmark's items, by benchmark and model.

    A result that is known of the same model, task and settings is read from `cache`. Every rank
    makes the same calls. Raises BadInput for a benchmark that cannot be loaded or measured.
    """
    asked = {name: BenchmarkedModel(setup, name, path) for name, path in models.items()}
    found: dict[str, ItemsByModel] = {}
    for task_name in setup.config.benchmarks.names:
        task = load_task(task_name, fixed_folder(spec.inputs[input_name(task_name)].path))
        found[task_name] = {
            name: _known_or_measured(
                cache / f"{_key(spec, task, name)}.json", _measure(task, model, setup)
            )
            for name, model in asked.items()
        }
    return found


def _measure(
    task: LoadedTask, model: BenchmarkedModel, setup: Setup
) -> Callable[[], BenchmarkItems]:
    return lambda: measure_items(task, model, setup.config.benchmarks)


def _key(spec: StageSpec[EvaluateStageConfig], task: LoadedTask, model: str) -> str:
    """Return the identity of a result: model, task, code, and what else its numbers depend on."""
    config = spec.config.evaluate
    return digest_json(
        {
            "model": spec.inputs[model].digest,
            "task": [spec.inputs[input_name(task.name)].digest, task.digest],
            "settings": config.benchmarks.model_dump(mode="json", exclude={"tasks"}),
            "sampling": config.sampling.model_dump(mode="json"),
            "micro_batch_tokens": config.micro_batch_tokens,
            "packing": config.packing,
            "dtype": [spec.config.dtype, spec.config.frozen_dtype],
            "ranks": spec.ranks,
            "template_date": spec.config.template_date,
            "seed": spec.seed,
            "code": [spec.code, version("lm_eval")],
        }
    )


def _known_or_measured(file: Path, measure: Callable[[], BenchmarkItems]) -> BenchmarkItems:
    """Return the result in `file`, or measure it and write it there by rename.

    A damaged file counts as none. Every rank takes what rank 0 has read.
    """
    kept = gathered(_kept(file))[0]
    if kept is not None and (known := _whole(file, kept)):
        return known
    items = measure()
    if is_rank_zero():
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(file, items.model_dump_json())
    return items


def _whole(file: Path, kept: str) -> BenchmarkItems | None:
    """Return a result from its text, None where it is damaged."""
    try:
        return BenchmarkItems.model_validate_json(kept)
    except ValidationError:
        if is_rank_zero():
            log.warning("%s is damaged, so the benchmark is measured again", file)
        return None


def _kept(file: Path) -> str | None:
    """Return a result's text, None without one; its time becomes that of its last use."""
    try:
        text = file.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return None
    with contextlib.suppress(OSError):  # a file of another user: `rlhf gc` sees an older use
        os.utime(file)
    return text

"""Tasks of lm-eval: load one, and measure a model on each of its items.

lm-eval has the data, the prompts and the metrics; the models and samplers are this project's.
"""

import json
import math
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from lm_eval import evaluator
from lm_eval.tasks import TaskManager
from lm_eval.tasks._yaml_loader import load_yaml

from rlhf_core.config.evaluate import Benchmarks
from rlhf_core.digest import digest_json
from rlhf_core.errors import BadInput, RLHFError
from rlhf_core.evaluation.benchmarks.language_model import BenchmarkedModel
from rlhf_core.evaluation.benchmarks.load_errors import not_loaded
from rlhf_core.rundir import Frozen

FEWSHOT_SEED = 1234  # lm-eval's own
FILES = ("json", "csv", "parquet", "text")  # builders of `datasets` that read local files
TaskSample = dict[str, Any]  # one item as lm-eval logs it


class BenchmarkItems(Frozen):
    """One model's results on a benchmark, an entry per item. values: by metric."""

    ids: list[str]
    prompts: list[str]
    targets: list[str]
    replies: list[str]
    values: dict[str, list[float]]


@dataclass(frozen=True)
class LoadedTask:
    """A benchmark as lm-eval has loaded it: its leaf tasks, with their data."""

    name: str
    loaded: Any  # lm-eval's TaskDict

    @property
    def leaves(self) -> dict[str, Any]:
        """The tasks by name: the benchmark itself, or those of a group."""
        return self.loaded["tasks"]

    @property
    def digest(self) -> str:
        """The identity of what is asked: configuration, version and every item.

        The places of local files are not in it.
        """
        return digest_json({name: _identity(task) for name, task in self.leaves.items()})


def _identity(task: Any) -> str:
    config = task.config.to_dict()
    config.pop("dataset_kwargs", None)
    config.pop("metadata", None)
    parts = [config, str(task.VERSION), [*task.eval_docs]]
    return json.dumps(parts, sort_keys=True, default=_name_of, ensure_ascii=False)


def _name_of(value: object) -> str:
    """Return a function's name, whose text would hold an address; the text of anything else."""
    return getattr(value, "__qualname__", str(value))


def load_task(name: str, folder: Path) -> LoadedTask:
    """Return a benchmark whose task file is in `folder`, with its data.

    Raises BadInput when lm-eval cannot load it, with the reason; StageFailed when the hub of its
    data does not answer.
    """
    try:
        with _no_files_written_beside(), TemporaryDirectory() as scratch:
            loaded = _load(name, folder, scratch)
    except RLHFError:
        raise
    except Exception as error:  # lm-eval and datasets raise a dozen kinds
        raise not_loaded(name, str(folder), error) from error
    for task in loaded["tasks"].values():
        if task.get_config("num_fewshot") is None:
            task.set_config(key="num_fewshot", value=0)
        task.set_fewshot_seed(seed=FEWSHOT_SEED)
    return LoadedTask(name, loaded)


def require_metrics(task: LoadedTask, metrics: Iterable[str]) -> None:
    """Raise BadInput for a metric that a benchmark's tasks do not measure.

    A metric is named METRIC, or METRIC-FILTER where the task has several filters.
    """
    known = {_metric_name(name, "") for leaf in task.leaves.values() for name in leaf.aggregation()}
    for metric in metrics:
        if metric not in known and not metric.startswith(tuple(f"{name}-" for name in known)):
            raise BadInput(
                f"the benchmark {task.name} does not measure {metric!r}, which a gate or the"
                f" contest looks at; expected one of {', '.join(sorted(known))}. Correct the"
                " recipe's metric."
            )


@contextmanager
def _no_files_written_beside() -> Iterator[None]:
    """Keep Python from writing compiled files beside a task, which would change its digest."""
    before, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        yield
    finally:
        sys.dont_write_bytecode = before


def _load(name: str, folder: Path, scratch: str) -> Any:
    """Return lm-eval's TaskDict of a task in the folder, or of a group anywhere in lm-eval."""
    here = TaskManager(include_path=str(folder), include_defaults=False)
    if name not in here.all_subtasks:
        return TaskManager().load([name])
    file = here.task_index[name].yaml_path
    assert file is not None  # the index of a folder is made of its files
    values = load_yaml(file)
    if values.get("dataset_path") not in FILES or "class" in values:
        return here.load([values])
    arguments = _local_files(values.get("dataset_kwargs") or {}, file.parent)
    values["dataset_kwargs"] = arguments | {"cache_dir": scratch, "keep_in_memory": True}
    try:
        return here.load([values])
    except Exception as error:
        where = f"{folder} with the data {arguments.get('data_files')}"
        raise not_loaded(name, where, error) from error


def _local_files(arguments: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Return the arguments of a local data set, with paths that start at the task's folder."""

    def placed(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: placed(inner) for key, inner in value.items()}
        if isinstance(value, list):
            return [placed(inner) for inner in value]
        return value if "://" in str(value) else str(folder / str(value))

    return {
        key: placed(value) if key == "data_files" else value for key, value in arguments.items()
    }


def measure_items(task: LoadedTask, model: BenchmarkedModel, config: Benchmarks) -> BenchmarkItems:
    """Return a model's results on every item of a benchmark.

    Raises BadInput for a task without a metric that is one number per item.
    """
    samples = _samples(task, model, config)
    parts = [_of_leaf(name, samples[name], leaf) for name, leaf in task.leaves.items()]
    names = set.intersection(*(set(part.values) for part in parts))
    if not names:
        raise BadInput(
            f"the benchmark {task.name} has no metric that is one number for each item; expected"
            " one such as acc, acc_norm or exact_match"
        )
    return BenchmarkItems(
        ids=[one for part in parts for one in part.ids],
        prompts=[one for part in parts for one in part.prompts],
        targets=[one for part in parts for one in part.targets],
        replies=[one for part in parts for one in part.replies],
        values={
            name: [one for part in parts for one in part.values[name]] for name in sorted(names)
        },
    )


def _samples(
    task: LoadedTask, model: BenchmarkedModel, config: Benchmarks
) -> dict[str, list[TaskSample]]:
    """Return what lm-eval logs of each item, by leaf task.

    Raises BadInput for what a task's own prompts and metrics raise: it is the same at every try.
    """
    try:
        results = evaluator.evaluate(
            lm=model,
            task_dict=task.loaded,
            limit=config.max_items,
            bootstrap_iters=0,
            log_samples=True,
            apply_chat_template=config.chat_template,
            fewshot_as_multiturn=config.chat_template,
        )
    except (ValueError, TypeError, LookupError, AssertionError, NotImplementedError) as error:
        reason = f"{type(error).__name__}: {str(error).partition(chr(10))[0]:.300}"
        raise BadInput(
            f"lm-eval cannot measure the benchmark {task.name} ({reason}); expected a task whose"
            " prompts and metrics fit its items. Correct the task, or evaluate.benchmarks.tasks."
        ) from error
    return results["samples"]


def _of_leaf(name: str, samples: list[TaskSample], task: Any) -> BenchmarkItems:
    """Return the items of one task; lm-eval logs an item once for each of the task's filters."""
    by_filter: dict[str, list[TaskSample]] = {}
    for sample in samples:
        by_filter.setdefault(sample["filter"], []).append(sample)
    values = {
        _metric_name(metric, key if len(by_filter) > 1 else ""): numbers
        for key, of_filter in by_filter.items()
        for metric in of_filter[0]["metrics"]
        if (numbers := _numbers(metric, of_filter)) is not None
    }
    first = next(iter(by_filter.values()))
    return BenchmarkItems(
        ids=[f"{name}/{one['doc_id']}/{one['doc_hash'][:8]}" for one in first],
        prompts=[_prompt(task, one) for one in first],
        targets=[_target(task, one) for one in first],
        replies=[_reply(one) for one in first],
        values=values,
    )


def _metric_name(metric: str, of_filter: str) -> str:
    return re.sub(r"[^\w.-]", "_", f"{metric}-{of_filter}" if of_filter else metric)


def _numbers(metric: str, samples: list[TaskSample]) -> list[float] | None:
    """Return a metric of each item; None where it is no finite number of each."""
    try:
        found = [float(sample[metric]) for sample in samples]
    except (KeyError, TypeError, ValueError):  # a tuple, of a metric over all items together
        return None
    return found if all(map(math.isfinite, found)) else None


def _prompt(task: Any, sample: TaskSample) -> str:
    text = task.doc_to_text(sample["doc"])
    return text if isinstance(text, str) else str(sample["arguments"][0][0])


def _target(task: Any, sample: TaskSample) -> str:
    target = sample["target"]
    if isinstance(target, int) and getattr(task.config, "doc_to_choice", None) is not None:
        choices = task.doc_to_choice(sample["doc"])
        return str(choices[target]) if target < len(choices) else str(target)
    return str(target)


def _reply(sample: TaskSample) -> str:
    """Return the text of a reply, or the most likely of the answers to choose from."""
    found, arguments = sample["filtered_resps"], sample["arguments"]
    if len(found) == 1 or not isinstance(found[0], tuple | list):
        return str(found[0])
    offered = [k for k in range(len(found)) if arguments[k][0]]  # not those without a context
    best = max(offered or range(len(found)), key=lambda k: found[k][0])
    same_context = len({text for text, *_ in arguments}) < len(arguments)
    return str(arguments[best][1 if same_context else 0]).strip()

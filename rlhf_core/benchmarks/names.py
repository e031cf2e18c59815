"""The names of benchmarks' metrics and of their item columns.

A recipe may name any benchmark, so that no table can list these metrics. They are declared by their
form, eval/benchmark/TASK/METRIC_OF, where OF is one of FORMS.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import PurePath
from typing import NamedTuple, TypeVar

T = TypeVar("T")

PREFIX = "eval/benchmark/"
COLUMN = "benchmark_"  # after the model's name, before the metric's, in the name of an item column
GAIN, WINS = "gain", "win_rate_vs_champion"
# by OF: the meaning
FORMS = {
    "policy": "Mean of {metric} over the items of {task}, of the policy",
    "sft": "Mean of {metric} over the items of {task}, of the SFT model",
    "champion": "Mean of {metric} over the items of {task}, of the champion",
    GAIN: "Paired difference policy - SFT model of {metric} on {task}",
    WINS: "Items of {task} on which {metric} of the policy is above the champion's; a tie counts"
    " one half",
}
_TASK_FILE = (".yaml", ".yml")
ENDS = ("_lower", "_upper")
# metrics that are 0 or 1 for each item; any other metric of a benchmark may be any number
SHARES = frozenset(("acc", "acc_norm", "acc_bytes", "acc_mutual_info", "exact_match"))
_NAME = re.compile(
    rf"{PREFIX}(?P<task>[\w.-]+)/(?P<metric>[\w.-]+?)_(?P<of>{'|'.join(FORMS)})"
    rf"(?P<end>{'|'.join(ENDS)})?"
)


class BenchmarkMetric(NamedTuple):
    """The parts of a benchmark metric's name. end: '_lower', '_upper' or ''."""

    task: str
    metric: str
    of: str
    end: str = ""

    @property
    def name(self) -> str:
        """The whole name."""
        return f"{PREFIX}{self.task}/{self.metric}_{self.of}{self.end}"

    @property
    def is_share(self) -> bool:
        """True if the metric is 0 or 1 for each item."""
        return any(self.metric == name or self.metric.startswith(f"{name}-") for name in SHARES)

    @property
    def meaning(self) -> str:
        """The meaning of the number, one phrase."""
        text = FORMS[self.of].format(metric=self.metric, task=self.task)
        side = {"_lower": "Lower", "_upper": "Upper"}.get(self.end)
        return f"{side} end of the 95% interval: {text}" if side else text

    def column(self, model: str) -> str:
        """Return the item column that holds a model's values."""
        return f"{model}_{COLUMN}{self.metric}"


def parse(name: str) -> BenchmarkMetric | None:
    """Return the parts of a benchmark metric's name; None for another name."""
    found = _NAME.fullmatch(name)
    if found is None:
        return None
    return BenchmarkMetric(found["task"], found["metric"], found["of"], found["end"] or "")


def input_name(task: str) -> str:
    """Return the name of a benchmark's task files among a stage's inputs."""
    return f"benchmark_{task}"


def benchmark_name(task: str) -> str:
    """Return the name of a benchmark: that of its task file without the ending, or its own."""
    path = PurePath(task)
    return path.stem if path.suffix in _TASK_FILE else task


def is_task_file(task: str) -> bool:
    """Return True if a benchmark is given by the path of its task file."""
    return PurePath(task).suffix in _TASK_FILE


class DeclaredByName(Mapping[str, T]):
    """A table by metric, with metrics that are declared by their form: those of benchmarks.

    further: returns the entry of a name of another form, None for any other name. Iteration gives
    the listed names alone, because there is no end of benchmarks.
    """

    def __init__(
        self,
        listed: dict[str, T],
        of_benchmark: Callable[[BenchmarkMetric], T | None],
        further: Callable[[str], T | None] = lambda name: None,
    ):
        self._listed = listed
        self._of_benchmark = of_benchmark
        self._further = further

    def __getitem__(self, name: str) -> T:
        if name in self._listed:
            return self._listed[name]
        parts = parse(name)
        found = self._of_benchmark(parts) if parts else self._further(name)
        if found is None:
            raise KeyError(name)
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(self._listed)

    def __len__(self) -> int:
        return len(self._listed)

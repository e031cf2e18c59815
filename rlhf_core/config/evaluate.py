"""The evaluate section: what the evaluation stage measures, and on how much data."""

import re
from collections import Counter
from typing import Annotated

from pydantic import Field, field_validator, model_validator

from rlhf_core.benchmarks.names import benchmark_name
from rlhf_core.config.evaluate_gate import EvaluateGate
from rlhf_core.config.fields import Config, FrozenPlacement, Positive
from rlhf_core.config.judge import EvaluationJudge
from rlhf_core.config.sampling import Sampling

_BENCHMARK = re.compile(r"[\w-][\w.-]*")


class Benchmarks(Config):
    """The benchmarks of the evaluation, run by lm-eval on policy, SFT model and champion."""

    tasks: list[str] = Field(
        [],
        description=(
            "Benchmarks: names of tasks or groups that lm-eval or this project brings, or paths of"
            " task files (NAME.yaml, in a folder of its own). None: no benchmark."
        ),
    )
    max_items: Positive | None = Field(
        None, description="Largest number of items of a task, its first ones. None: all."
    )
    chat_template: bool = Field(
        True, description="Items are prompts of the model's chat template. False: plain text."
    )

    @field_validator("tasks")
    @classmethod
    def _have_names(cls, tasks: list[str]) -> list[str]:
        names = [benchmark_name(task) for task in tasks]
        if bad := [name for name in names if not _BENCHMARK.fullmatch(name)]:
            raise ValueError(
                f"{bad[0]!r} is no name of a benchmark; expected letters, digits, '_', '-' and '.',"
                " because its metrics have it in their names. Rename the task file and its task."
            )
        if twice := [name for name, count in Counter(names).items() if count > 1]:
            raise ValueError(
                f"{twice[0]} is there {names.count(twice[0])} times; expected each benchmark once"
            )
        return tasks

    @property
    def names(self) -> list[str]:
        """The names of the benchmarks."""
        return [benchmark_name(task) for task in self.tasks]


class Evaluate(Config):
    """The evaluation of the policy against the SFT model and the champion."""

    max_prompts: Positive = Field(256, description="Largest number of held-out prompts to answer.")
    micro_batch_tokens: Positive = Field(
        8192, description="Tokens that are scored at once, padding included (unless packing)."
    )
    packing: bool = Field(
        False,
        description=(
            "Pack the whole sequences that are scored at once into one row, without padding. None"
            " of them attends to another."
        ),
    )
    max_heldout: Positive = Field(
        256, description="Largest number of held-out demonstrations for the alignment tax."
    )
    samples: Positive = Field(64, description="Rows of the side-by-side table of replies.")
    independent_scorer: str | None = Field(
        None,
        description=(
            "'module:function', or a name that an installed package offers (rlhf.rewards). It takes"
            " (prompts, replies) and returns scores. None: the first of reward_models, if there is"
            " one."
        ),
    )
    best_of_n: Annotated[int, Field(ge=2, le=1024)] | None = Field(
        None,
        description=(
            "Baseline: the best of this number of replies by the SFT model, by the reward model's"
            " score. None: no such baseline."
        ),
    )
    train_reward: bool = Field(
        False,
        description=(
            "With align = 'dpo' or 'kto': train a reward model too, to score replies. It has the"
            " same gate."
        ),
    )
    reward_models: list[str] = Field(
        [],
        description="Folders of further reward models. With the main one they form the ensemble.",
    )
    judge: EvaluationJudge | None = Field(
        None,
        description="Judge of the policy against the SFT model and the champion. None: no judge.",
    )
    benchmarks: Benchmarks = Field(
        Benchmarks(), description="Benchmarks of policy, SFT model and champion, by lm-eval."
    )
    frozen: FrozenPlacement = Field(
        "whole",
        description=(
            "'whole': one rank evaluates. 'sharded': all ranks evaluate, with the weights divided"
            " among them."
        ),
    )
    sampling: Sampling = Field(Sampling(), description="Sampling of replies.")
    gate: EvaluateGate = Field(EvaluateGate(), description="Thresholds of the stage's gates.")

    @model_validator(mode="after")
    def _sampler_has_its_ranks(self) -> "Evaluate":
        if self.sampling.tensor_parallel > 1 and self.frozen == "whole":
            raise ValueError(
                f"sampling.tensor_parallel {self.sampling.tensor_parallel}, but one rank evaluates;"
                " set frozen to 'sharded', with which all ranks do, or tensor_parallel to 1"
            )
        return self

    @model_validator(mode="after")
    def _gated_benchmarks_run(self) -> "Evaluate":
        for name in self.gate.benchmarks:
            self.require_benchmark(name, f"gate.benchmarks.{name}")
        return self

    def require_benchmark(self, name: str, key: str) -> None:
        """Raise ValueError, naming the key, unless the evaluation runs a benchmark."""
        if name not in self.benchmarks.names:
            raise ValueError(
                f"{key} is about the benchmark {name!r}, which evaluate.benchmarks.tasks"
                f" {self.benchmarks.tasks} does not have; add it there"
            )

    @field_validator("sampling")
    @classmethod
    def _shares_its_device(cls, sampling: Sampling) -> Sampling:
        if sampling.own_devices:
            raise ValueError(
                f"own_devices {sampling.own_devices}: nothing learns while models are evaluated, so"
                " that the sampler has the device already; leave it out (ppo.sampling.own_devices"
                " is for training)"
            )
        if sampling.adapter_sync:
            raise ValueError(
                "adapter_sync: nothing learns while models are evaluated; leave it out"
                " (ppo.sampling.adapter_sync is for training)"
            )
        return sampling

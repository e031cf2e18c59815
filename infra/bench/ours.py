"""A stage of this project as a measured process: `ours.py STAGE FOLDER OPTIONS`.

OPTIONS is JSON: the stage's section of a recipe, dtype, kind of rows and shape. The stage is the
product's own, from its entry in the catalogue; a step ends where it logs its metrics.
"""

import contextlib
import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

from forced_lengths import ForcedLengths
from shapes import SHAPES, Shape, longest_reply, prompts, reply_lengths
from turns import PipedTurns, Turns

from rlhf_core.config.stage_configs import StageConfig
from rlhf_core.ppo import trainer
from rlhf_core.rundir import Artifact, RunDir, StageSpec
from rlhf_core.sampling.base import Sampler
from rlhf_core.stage_catalogue import stage_named

METRICS = {  # seconds, and tokens per reply, by their names in the table
    "generate": "ppo/seconds_rollout",
    "score": "ppo/seconds_scoring",
    "update": "ppo/seconds_update",
    "sync": "ppo/seconds_sync",
    "reply_tokens": "ppo/response_tokens",
}
STEPS = 1000  # more than are ever measured
INPUTS = {
    "sft": ("demonstrations_train", "demonstrations_heldout"),
    "reward": ("comparisons_train", "comparisons_heldout"),
}


class TurnDir(RunDir):
    """A run directory whose stage takes each step in its turn."""

    def __init__(self, path: Path, turns: Turns):
        super().__init__(path)
        self._turns = turns

    def log(self, step: int, steps: int, metrics: dict[str, float]) -> None:
        """Log a step, report it, and wait for the next turn."""
        super().log(step, steps, metrics)
        numbers = {key: metrics[name] for key, name in METRICS.items() if name in metrics}
        self._turns.done(**numbers)


def run(stage: str, folder: Path, options: dict[str, Any], turns: Turns) -> None:
    """Run a stage until its turns end. Raises Enough then, where they end in this process."""
    shape, kind = SHAPES[options["shape"]], options["kind"]
    if stage == "ppo":
        inputs = {"policy": folder / "model", "reward": folder / "reward"}
        inputs["prompts_train"] = folder / "prompts_train.jsonl"
        section = ppo_section(shape, kind)
    else:
        inputs = {name: folder / kind / f"{name}.jsonl" for name in INPUTS[stage]}
        inputs["model"] = folder / "model"
        section = supervised_section(stage, shape)
    spec = spec_of(stage, inputs, section | options["section"], options["dtype"])
    entry = resolve_name(stage_named(stage).entry)
    with (
        _forced_lengths(shape, kind, turns),
        tempfile.TemporaryDirectory(prefix="bench-") as run_dir,
    ):
        entry(spec, TurnDir(Path(run_dir), turns))


def spec_of(stage: str, inputs: dict[str, Path], section: dict, dtype: str) -> StageSpec:
    """Return the spec of a stage on these files; their content is not digested."""
    values: dict[str, Any] = {stage: section, "dtype": dtype}
    if stage != "ppo":
        values["train"] = True
    config: StageConfig = resolve_name(stage_named(stage).config).model_validate(values)
    artifacts = {name: Artifact(path=path, digest=path.name) for name, path in inputs.items()}
    return StageSpec(stage=stage, seed=1, config=config, inputs=artifacts, code="bench")


def ppo_section(shape: Shape, kind: str) -> dict[str, Any]:
    """Return the PPO section of equal work: one epoch, one optimizer step, micro_rows at once."""
    longest = longest_reply(shape, kind)
    return {
        "steps": STEPS,
        "checkpoint_every": STEPS,
        "rollout_batch": prompts(shape, kind),
        "minibatches": 1,
        "epochs": 1,
        "micro_batch_tokens": shape.micro_rows * (shape.prompt_tokens + longest),
        "kl_budget": 1e9,
        "sampling": {
            "engine": shape.sampler,
            "max_new_tokens": longest,
            "kv_cache_mib": 320,  # holds every reply at once: 46 KB per token in float32
        },
    }


def supervised_section(stage: str, shape: Shape) -> dict[str, Any]:
    """Return the section of SFT or reward model: every row in every step, micro_rows at once."""
    return {
        "batch_size": shape.demonstrations if stage == "sft" else shape.pairs,
        "epochs": 20,
        "max_heldout": 1,
        "micro_batch_tokens": shape.micro_rows * shape.equal,
    }


@contextlib.contextmanager
def _forced_lengths(shape: Shape, kind: str, turns: Turns) -> Iterator[None]:
    """Let the trainer's sampler give replies of the lengths that TRL's side has too."""
    opened = trainer.open_sampler

    def lengths() -> list[int]:
        return reply_lengths(shape, kind, warm=turns.taken == 0)

    def open_forced(*args: Any, **options: Any) -> Sampler:
        return ForcedLengths(opened(*args, **options), lengths)

    trainer.open_sampler = open_forced
    try:
        yield
    finally:
        trainer.open_sampler = opened


def main() -> None:
    """Run the stage that the command line names, turn by turn."""
    stage, folder, options = sys.argv[1:]
    run(stage, Path(folder), json.loads(options), PipedTurns())


if __name__ == "__main__":
    main()

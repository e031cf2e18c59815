r"""Compare the ways of picking pairs to label, by the reward models that the labels give.

    RLHF_HOME=HOME .venv/bin/rlhf run quickstart
    RLHF_HOME=HOME .venv/stage/bin/python infra/studies/picking.py --folder FOLDER \
        [--run RUN] [--seeds 1-8] [--labels 100,400] [--ways random,uncertain,...] [--base 200]

For each seed, an ensemble is trained on BASE comparisons. The SFT model answers training prompts
twice, four prompts per pair that is wanted, as for `rlhf label open`. Each way picks its pairs
among those; three simulated annotators vote on each pair; one reward model is trained from the SFT
model on the base and the new labels. Its accuracy is measured on the run's held-out comparisons and
on fresh pairs of the SFT model and of the policy to held-out prompts, by the annotators' majority
and by true utility.

All ways of a seed share base, candidates, initial weights and votes, so that the difference to
random is taken within seeds; its interval is Student's over the seeds. A finished cell is a file
in FOLDER/cells and is not repeated: a stopped study goes on. Several processes may share FOLDER,
each with seeds of its own. Without --seeds nothing is trained; the table of the finished cells is
printed.
"""

import argparse
import json
import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from picking_table import report
from simulated_votes import accuracies, lead, read_rows, voted, write_rows

from rlhf_core.batching.batch import subset
from rlhf_core.config import Evaluate, Reward, Sampling, load_recipe
from rlhf_core.config.stage_configs import LabelPairsStageConfig, RewardStageConfig
from rlhf_core.data.splits import load_split
from rlhf_core.digest import code_digest
from rlhf_core.labels.candidates import choose, pools
from rlhf_core.labels.picking import Pick
from rlhf_core.labels.votes import LabelPair
from rlhf_core.rundir import Artifact, RunDir, StageSpec, write_atomically
from rlhf_core.stage_catalogue import LABEL_PAIRS, REWARD

PROMPTS_PER_PAIR = 4  # as of `rlhf label open`
MEMBERS = 3  # of the ensemble that scores the candidates
DRAWS = 2  # fresh pairs per held-out prompt and model
NEEDED = (
    "sft",
    "policy",
    "prompts_train",
    "prompts_heldout",
    "comparisons_train",
    "comparisons_heldout",
)


@dataclass(frozen=True)
class Study:
    """The models and splits of a run, and the sizes of the study.

    inputs: the artifacts of NEEDED. base: comparisons before any new label.
    """

    inputs: dict[str, Artifact]
    folder: Path
    reward: Reward
    sampling: Sampling
    base: int
    labels: tuple[int, ...]
    ways: tuple[Pick, ...]

    def cell(self, seed: int, way: str, labels: int) -> Path:
        """Return the file of a cell's result."""
        return self.folder / "cells" / f"{seed}-{way}-{labels}.json"

    def pairs(self, folder: Path, *, policy: str, prompts: str, seed: int, **more: Path) -> list:
        """Return candidates, made by the stage of `rlhf label open`. more: its reward model."""
        split = self.inputs[prompts]
        count = len(load_split(split.path))
        if prompts == "prompts_train":
            count = min(count, PROMPTS_PER_PAIR * max(self.labels))
        config = LabelPairsStageConfig(
            evaluate=Evaluate(sampling=self.sampling), prompts=count, comparisons=0, dtype="float32"
        )
        inputs = {"policy": self.inputs[policy], "prompts_train": split}
        inputs |= {name: Artifact.of(path) for name, path in more.items()}
        run_in_process(LABEL_PAIRS.name, seed, config, inputs, folder)
        return read_rows(folder / "candidates.jsonl")

    def trained(self, folder: Path, rows: list[dict], seed: int, members: int = 1) -> Path:
        """Train reward models on these comparisons; return the folder of the stage."""
        folder.mkdir(parents=True, exist_ok=True)
        write_rows(folder / "train.jsonl", rows)
        inputs = {
            "model": self.inputs["sft"],
            "comparisons_train": Artifact.of(folder / "train.jsonl"),
            "comparisons_heldout": Artifact.of(self.heldout()),
        }
        # nobody reads the accuracy of the ensemble
        known = len(load_split(self.heldout())) if members == 1 else 200
        section = self.reward.model_copy(update={"ensemble": members, "max_heldout": known})
        config = RewardStageConfig(reward=section, train=True, dtype="float32")
        run_in_process(REWARD.name, seed, config, inputs, folder)
        return folder

    def heldout(self) -> Path:
        """Return the file of all held-out pairs; it is made once."""
        from tasks.records.file_lock import locked

        file = self.folder / "heldout.jsonl"
        self.folder.mkdir(parents=True, exist_ok=True)
        with locked(self.folder / "lock"):
            if not file.exists():
                write_rows(file, self._heldout_rows())
        return file

    def _heldout_rows(self) -> list[dict]:
        found = [
            row | {"meta": {"set": "old"}}
            for row in load_split(self.inputs["comparisons_heldout"].path)
        ]
        for policy in ("sft", "policy"):
            rows: dict[str, dict] = {}
            for draw in range(1, DRAWS + 1):
                folder = self.folder / f"heldout-{policy}-{draw}"
                fresh = self.pairs(folder, policy=policy, prompts="prompts_heldout", seed=draw)
                rows |= {
                    json.dumps([row["prompt"], *sorted((row["reply_a"], row["reply_b"]))]): row
                    for row in fresh
                }
            pairs = [(row["prompt"], row["reply_a"], row["reply_b"]) for row in rows.values()]
            found += [row | {"meta": {"set": policy}} for row in voted(pairs)]
        return found


def run_in_process(
    stage: str,
    seed: int,
    config: LabelPairsStageConfig | RewardStageConfig,
    inputs: dict[str, Artifact],
    folder: Path,
) -> None:
    """Run a stage here; a finished one is not repeated."""
    from rlhf_core.__main__ import run_stage

    spec = StageSpec(stage=stage, seed=seed, config=config, inputs=inputs, code=code_digest())
    run_stage(spec, RunDir(folder.absolute()))


def run_seed(study: Study, seed: int) -> None:
    """Make all cells of a seed that are missing."""
    cells = [("base", 0)] + [(way, count) for count in study.labels for way in study.ways]
    if all(study.cell(seed, *one).exists() for one in cells):
        return
    base = subset(load_split(study.inputs["comparisons_train"].path), study.base, seed=seed)
    folder = study.folder / f"seed-{seed}"
    raters = study.trained(folder / "raters", base, seed, MEMBERS)
    candidates = study.pairs(
        folder / "pool", policy="sft", prompts="prompts_train", seed=seed, reward=raters / "model"
    )
    for way, count in cells:
        if not study.cell(seed, way, count).exists():
            picked = picked_pairs(candidates, way, count, seed) if count else []
            run_cell(study, seed, (way, count), base, picked)
    shutil.rmtree(folder)


def picked_pairs(candidates: list[dict], way: Pick, count: int, seed: int) -> list[LabelPair]:
    """Return the pairs that a way picks among PROMPTS_PER_PAIR candidates per pair wanted."""
    offered = subset(candidates, PROMPTS_PER_PAIR * count, seed=seed)
    return choose(pools(offered, ["onpolicy"], count), count, way, seed)


def run_cell(
    study: Study, seed: int, cell: tuple[str, int], base: list[dict], picked: list[LabelPair]
) -> None:
    """Train on base and picked pairs, measure, and write the cell's file."""
    way, count = cell
    new = voted([(pair.prompt, pair.reply_a, pair.reply_b) for pair in picked])
    leads = lead(new)
    stage = study.trained(study.folder / f"seed-{seed}" / f"{way}-{count}", [*base, *new], seed)
    file = study.cell(seed, way, count)
    file.parent.mkdir(exist_ok=True)
    result = {
        "seed": seed,
        "way": way,
        "labels": count,
        "picked": len(picked),
        "wrong_labels": sum(one < -1e-9 for one in leads) / max(1, len(leads)),
        "equal_utility": sum(abs(one) <= 1e-9 for one in leads) / max(1, len(leads)),
        "accuracy": accuracies(stage, read_rows(study.heldout())),
    }
    write_atomically(file, json.dumps(result, indent=1) + "\n")
    shutil.rmtree(stage)
    print(f"seed {seed}, {way} {count}: {result['accuracy']}", flush=True)


def inputs_of(run: str) -> dict[str, Artifact]:
    """Return the models and splits of a finished quickstart run in RLHF_HOME."""
    from tasks.analysis.gate_report import find_run
    from tasks.records.workspace import Workspace

    results = {stage.stage: stage.result for stage in find_run(Workspace.here(), run).stages}
    if missing := {"validate", "sft", "ppo"} - {name for name, one in results.items() if one}:
        sys.exit(
            f"{run} has not finished {sorted(missing)}; expected a whole `rlhf run quickstart`"
        )
    models = {"sft": "sft", "policy": "ppo"}
    return {name: results[stage].outputs["model"] for name, stage in models.items()} | {
        name: results["validate"].outputs[name] for name in NEEDED if name not in models
    }


def numbers(text: str) -> tuple[int, ...]:
    """Return the numbers of '1,2,5-8'."""
    found: list[int] = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        found += range(int(first), int(last or first) + 1)
    return tuple(found)


def ways(text: str) -> tuple[Pick, ...]:
    """Return the ways of picking in 'random,uncertain'. Raises ArgumentTypeError for another."""
    known: tuple[Pick, ...] = get_args(Pick)
    names = text.split(",")
    if unknown := set(names) - set(known):
        raise argparse.ArgumentTypeError(f"{sorted(unknown)}; expected some of {', '.join(known)}")
    return tuple(name for name in known if name in names)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the missing cells and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, required=True, help="where cells are kept")
    parser.add_argument("--run", default="latest", help="a finished quickstart run in RLHF_HOME")
    parser.add_argument("--seeds", type=numbers, default=())
    parser.add_argument("--labels", type=numbers, default=(100, 400))
    parser.add_argument("--ways", type=ways, default=get_args(Pick))
    parser.add_argument("--base", type=int, default=200)
    parser.add_argument("--epochs", type=int, default=4)
    given = parser.parse_args(argv)
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    if given.seeds:
        recipe = load_recipe("quickstart", [f"reward.epochs={given.epochs}"])
        study = Study(
            inputs=inputs_of(given.run),
            folder=given.folder,
            reward=recipe.reward,
            sampling=recipe.evaluate.sampling.model_copy(update={"engine": "transformers"}),
            base=given.base,
            labels=given.labels,
            ways=given.ways,
        )
        for seed in given.seeds:
            run_seed(study, seed)
    print(report(given.folder))


if __name__ == "__main__":
    main()

r"""Compare rounds of labels with the same number of labels at once, on the quickstart.

    .venv/stage/bin/python infra/studies/iterate.py --seeds 1 2 3 4 5 --labels 600 --rounds 3 \
        --folder FOLDER [--align dpo] [--base 300] [--pick random] [--set KEY=VALUE]

For each seed, `rlhf iterate` runs twice from the same round 0, which is trained on BASE
comparisons: ROUNDS rounds of LABELS / ROUNDS pairs, and one round of LABELS pairs. The quickstart's
simulated annotators label. Both arms of a seed share a workspace, FOLDER/seed-N, and so round 0;
each has a registry name, and so a champion, of its own.

The measure is the true utility of the last round's policy on held-out prompts, which no gate has
picked; that of the final champion stands beside it. Gates that would end a loop of weak first
models are off; the contest with the champion is on. The difference between the arms is taken within
seeds, and its interval is Student's over the seeds. A seed in which a round that is compared has no
policy to measure, because a gate refused it, is left out of that difference and counted. A finished
arm is a file in FOLDER/arms; a stopped study goes on where it was. Without --seeds nothing runs,
and the table of the finished arms is printed.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import numpy as np

from rlhf_core.rundir import write_atomically
from rlhf_core.statistics.clusters import linearised

ARMS = ("rounds", "once")
UTILITY, KL = "eval/independent_policy", "eval/kl_per_response"
# every policy is measured, and round 0 is a champion, however few comparisons it has seen
EVALUATION_GATES_OFF = (
    "evaluate.gate.min_win_rate_lower=0.0",
    "evaluate.gate.min_independent_gain=none",
    "evaluate.gate.max_kl_per_response=1000.0",
    "evaluate.gate.max_length_ratio=100.0",
    "evaluate.gate.min_length_ratio=0.0",
    "evaluate.gate.max_repetition_increase=1.0",
    "evaluate.gate.max_alignment_tax=1000.0",
    "evaluate.gate.max_length_correlation=none",
    "evaluate.gate.min_distinct_2_ratio=none",
    "evaluate.gate.max_first_word_rise=none",
    "evaluate.gate.max_prompt_loss=none",
)
RECIPES: dict[str, tuple[str, tuple[str, ...]]] = {
    "ppo": (
        "quickstart",
        (
            "reward.gate.min_accuracy=0.0",
            "reward.gate.min_lower_bound=0.0",
            "reward.gate.min_over_length=-1.0",
            "ppo.gate.max_kl_per_response=1000.0",
            "evaluate.benchmarks.tasks=[]",  # they are no measure here, and take time
            "evaluate.gate.benchmarks={}",
            "gates={}",
        ),
    ),
    "dpo": ("quickstart-dpo", ("dpo.gate.min_lower_bound=0.0",)),
}


@dataclass(frozen=True)
class Study:
    """The sizes of the study. labels: in all, the same for both arms."""

    folder: Path
    align: str
    labels: int
    rounds: int
    base: int
    pick: str
    settings: tuple[str, ...]

    def file(self, seed: int, arm: str) -> Path:
        """Return the file of a finished arm."""
        return self.folder / "arms" / f"{self.align}-{seed}-{arm}.json"

    def command(self, seed: int, arm: str) -> list[str]:
        """Return the command of an arm."""
        recipe, own = RECIPES[self.align]
        rounds = self.rounds if arm == "rounds" else 1
        settings = [
            f"seed={seed}",
            f"data.comparisons.limit={self.base}",
            f"registry.name={recipe}-{arm}",
            *own,
            *EVALUATION_GATES_OFF,
            *self.settings,
        ]
        rlhf = str(Path(sys.executable).with_name("rlhf"))
        command = [rlhf, "iterate", recipe, "--rounds", str(rounds)]
        command += ["--labels", str(self.labels // rounds)]
        command += ["--by", "simulated", "--pick", self.pick, "--json"]
        return [*command, *(word for setting in settings for word in ("--set", setting))]


def require_same_sizes(study: Study) -> None:
    """Raise SystemExit where the folder has arms of other sizes, which do not compare."""
    file = study.folder / f"{study.align}-sizes.json"
    sizes = [study.labels, study.rounds, study.base, study.pick, list(study.settings)]
    if not file.exists():
        study.folder.mkdir(parents=True, exist_ok=True)
        write_atomically(file, json.dumps(sizes))
    if (known := json.loads(file.read_text(encoding="utf-8"))) != sizes:
        raise SystemExit(
            f"{study.folder} has arms of labels, rounds, base, pick and settings {known}; expected"
            f" {sizes}. Give another --folder."
        )


def run_arm(study: Study, seed: int, arm: str) -> None:
    """Run an arm unless it is finished. Raises SystemExit with the command's exit code."""
    file = study.file(seed, arm)
    if file.exists():
        return
    home = study.folder / f"seed-{seed}"
    home.mkdir(parents=True, exist_ok=True)
    environment = {key: value for key, value in os.environ.items() if key != "MLFLOW_TRACKING_URI"}
    done = subprocess.run(
        study.command(seed, arm),
        env=environment | {"RLHF_HOME": str(home.resolve())},
        stdout=subprocess.PIPE,
        encoding="utf-8",
    )
    if done.returncode:
        raise SystemExit(done.returncode)
    file.parent.mkdir(exist_ok=True)
    write_atomically(file, done.stdout)


def arm_row(study: Study, seed: int, arm: str) -> dict | None:
    """Return the measures of a finished arm, None while it is not finished."""
    file = study.file(seed, arm)
    if not file.exists():
        return None
    rounds = json.loads(file.read_text(encoding="utf-8"))["rounds"]
    last, champion = rounds[-1], rounds[-1]["champion"]
    stands = next((one for one in reversed(rounds) if one["policy"] == champion), last)
    return {
        "seed": seed,
        "arm": arm,
        "labels": sum(one["labels"]["pairs"] for one in rounds if one["labels"]),
        "utility": [_value(one, UTILITY) for one in rounds],
        "champion": _value(stands, UTILITY),
        "kl": _value(last, KL),
        "accuracy": [_value(one, "reward/accuracy") for one in rounds],
        "outcomes": [one["outcome"] for one in rounds],
    }


def _value(one: dict, name: str) -> float | None:
    return one["metrics"][name]["value"] if name in one["metrics"] else None


def difference(pairs: Sequence[tuple[float | None, float | None]]) -> dict:
    """Return the mean of the differences a - b within pairs, with Student's 95% interval.

    Pairs that lack a value are counted as left_out. Mean and interval are None of too few pairs.
    """
    values = [a - b for a, b in pairs if a is not None and b is not None]
    found = {"mean": fmean(values) if values else None, "seeds": len(values)}
    found |= {"left_out": len(pairs) - len(values), "low": None, "high": None}
    if len(values) > 1:
        terms = [(1, np.array(values, dtype=float), np.ones(len(values)))]
        found["low"], found["high"] = linearised(terms, 0.95)
    return found


def compared(rows: dict[tuple[int, str], dict]) -> dict[str, dict]:
    """Return the differences within the seeds whose two arms are finished.

    Raises SystemExit for arms of one seed that have spent different numbers of labels.
    """
    seeds = sorted({seed for seed, _ in rows if all((seed, arm) in rows for arm in ARMS)})
    pairs = [(rows[seed, "rounds"], rows[seed, "once"]) for seed in seeds]
    for a, b in pairs:
        if a["labels"] != b["labels"]:
            raise SystemExit(
                f"seed {a['seed']} has {a['labels']} labels in rounds and {b['labels']} at once;"
                " expected as many in both arms. Take its files out of the folder arms."
            )
    found = {
        "rounds - once, last policy": [(a["utility"][-1], b["utility"][-1]) for a, b in pairs],
        "rounds - once, champion": [(a["champion"], b["champion"]) for a, b in pairs],
        "rounds - round 0": [(a["utility"][-1], a["utility"][0]) for a, _ in pairs],
        "once - round 0": [(b["utility"][-1], b["utility"][0]) for _, b in pairs],
    }
    return {name: difference(values) for name, values in found.items() if values}


def report(study: Study, seeds: Sequence[int]) -> str:
    """Write FOLDER/ALIGN.json, and return the tables as Markdown."""
    found = {(seed, arm): arm_row(study, seed, arm) for seed in seeds for arm in ARMS}
    rows = {key: row for key, row in found.items() if row}
    differences = compared(rows)
    values = {"rows": list(rows.values()), "differences": differences}
    write_atomically(study.folder / f"{study.align}.json", json.dumps(values, indent=1))
    lines = ["| seed | arm | labels | true utility by round | champion | KL | outcomes |"]
    lines.append("|---|---|---|---|---|---|---|")
    for row in rows.values():
        utility = ", ".join(_text(value) for value in row["utility"])
        outcomes = ", ".join(row["outcomes"])
        lines.append(
            f"| {row['seed']} | {row['arm']} | {row['labels']} | {utility} |"
            f" {_text(row['champion'])} | {_text(row['kl'])} | {outcomes} |"
        )
    lines += [
        "",
        "| difference | mean | 95% interval | seeds | left out |",
        "|---|---|---|---|---|",
    ]
    for name, one in differences.items():
        mean = "-" if one["mean"] is None else f"{one['mean']:+.3f}"
        between = "-" if one["low"] is None else f"{one['low']:+.3f} to {one['high']:+.3f}"
        lines.append(f"| {name} | {mean} | {between} | {one['seeds']} | {one['left_out']} |")
    return "\n".join(lines)


def _text(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def finished_seeds(study: Study) -> list[int]:
    """Return the seeds of which an arm is finished."""
    files = (study.folder / "arms").glob(f"{study.align}-*-*.json")
    return sorted({int(file.stem.split("-")[1]) for file in files})


def main(words: Sequence[str] | None = None) -> None:
    """Run the arms that are missing, and print the tables after each seed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--seeds", type=int, nargs="*", default=[])
    parser.add_argument("--labels", type=int, default=600, help="in all, in each arm")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--base", type=int, default=300, help="comparisons of round 0")
    parser.add_argument("--pick", default="random")
    parser.add_argument("--align", choices=sorted(RECIPES), default="ppo")
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--set", dest="settings", action="append", default=[], metavar="KEY=VALUE")
    given = parser.parse_args(words)
    if given.labels % given.rounds:
        parser.error(f"--labels {given.labels} is no multiple of --rounds {given.rounds}")
    study = Study(
        given.folder,
        given.align,
        given.labels,
        given.rounds,
        given.base,
        given.pick,
        tuple(given.settings),
    )
    if given.seeds:
        require_same_sizes(study)
    for seed in given.seeds:
        for arm in ARMS:
            run_arm(study, seed, arm)
        print(report(study, finished_seeds(study)), flush=True)
    if not given.seeds:
        print(report(study, finished_seeds(study)))


if __name__ == "__main__":
    main()

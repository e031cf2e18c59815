"""Pipeline runs without training: real run directories with hand-made evidence.

The real tracker records them in MLflow.
"""

import json
import math
import random
from dataclasses import dataclass, field
from pathlib import Path

from recipes import tiny_recipe

from rlhf_core.evidence.items import item_id, write_items
from rlhf_core.rundir import Artifact, RunDir, StageResult, StageSpec
from rlhf_core.statistics.intervals import wilson
from tasks.execution.resource_usage import FILE
from tasks.records.run_record import Record, StageRecord, now
from tasks.records.workspace import Workspace
from tasks.tracking.tracker import Tracker

SPLITS = [
    f"{kind}_{side}"
    for kind in ("demonstrations", "comparisons", "prompts")
    for side in ("train", "heldout")
]
TOPICS = ["a kettle", "two trains", "the tides", "a bicycle", "fresh bread", "the moon"]


@dataclass
class Story:
    """The description of a run. Equal names of data and models are equal bytes."""

    name: str
    lift: float = 1.0  # score of the policy's replies over the SFT model's
    seed: int = 1
    prompts: int = 64
    pairs: int = 120
    accuracy: float = 0.8
    reward: str = "reward-a"
    sft: str = "sft-a"
    policy: str = "policy-a"
    champion: str | None = None
    comparisons: str = "comparisons-a"
    heldout: str = "heldout-a"
    reply: str = "A kettle boils water."  # the policy's, followed by the prompt's number
    scorer: str = "known:utility"
    with_items: bool = True
    until: str = "evaluate"
    settings: dict = field(default_factory=dict)


class Synthetic:
    """Writes runs into a workspace and its MLflow store."""

    def __init__(self, workspace: Workspace, folder: Path):
        self.workspace, self.folder = workspace, folder
        self.hub: dict[str, dict] = {}  # sources of validate that are data sets of the hub

    def artifact(self, name: str, *, model: bool = False) -> Artifact:
        """Make a file of data, or a model's folder, whose content is its name."""
        path = self.folder / "made" / name
        path.parent.mkdir(exist_ok=True)
        if model:
            path.mkdir(exist_ok=True)
            (path / "weights").write_text(name)
        else:
            path.write_text(name)
        return Artifact.of(path)

    def write(self, story: Story) -> Record:
        """Write the run directories of a run and return its record; MLflow knows nothing of it."""
        recipe = tiny_recipe(**{"seed": story.seed} | story.settings)
        record = Record.new(self.workspace, recipe, story.name)
        for stage, inputs, outputs in self.stages(story):
            record.stages.append(self._stage(story, stage, inputs, outputs))
            if stage == story.until:
                break
        return record

    def tell(self, story: Story) -> Tracker:
        """Write a run and have the tracker record all of it in MLflow."""
        tracker = Tracker(self.workspace, self.write(story))
        tracker.end("FINISHED")
        assert tracker.problem is None, tracker.problem
        return tracker

    def stages(self, story: Story) -> list[tuple[str, dict, dict]]:
        """Return each stage with its inputs and outputs."""
        base, sft = self.artifact("base", model=True), self.artifact(story.sft, model=True)
        reward, policy = (
            self.artifact(story.reward, model=True),
            self.artifact(story.policy, model=True),
        )
        sources = {
            "demonstrations": self.artifact("demonstrations.jsonl"),
            "comparisons": self.artifact(story.comparisons),
        }
        names = {"comparisons": story.comparisons, "prompts": story.heldout}
        split = {
            name: self.artifact(
                f"{name} of {names.get(name.partition('_')[0], 'demonstrations-a')}"
            )
            for name in SPLITS
        }
        judged = {"policy": policy, "sft": sft, "reward": reward}
        judged |= {name: split[name] for name in ("prompts_heldout", "demonstrations_heldout")}
        if story.champion:
            judged["champion"] = self.artifact(story.champion, model=True)

        def of(kind: str) -> dict:
            return {name: split[name] for name in (f"{kind}_train", f"{kind}_heldout")}

        return [
            ("validate", {"model": base} | sources, split),
            ("sft", {"model": base} | of("demonstrations"), {"model": sft}),
            ("reward", {"model": sft} | of("comparisons"), {"model": reward}),
            (
                "ppo",
                {"policy": sft, "reward": reward, "prompts_train": split["prompts_train"]},
                {"model": policy},
            ),
            ("evaluate", judged, {}),
        ]

    def _stage(self, story: Story, stage: str, inputs: dict, outputs: dict) -> StageRecord:
        config = {stage: {"independent_scorer": story.scorer}, "of": story.name, "lift": story.lift}
        if stage == "validate" and self.hub:
            config["data"] = self.hub
            inputs = {name: item for name, item in inputs.items() if name not in self.hub}
        spec: StageSpec = StageSpec(
            stage=stage, seed=story.seed, config=config, inputs=inputs, code="c0de" * 16
        )
        folder = self.workspace.run_dir(spec)
        run = RunDir(folder)
        (folder / "spec.json").write_text(spec.model_dump_json())
        _curves(run, stage, story)
        metrics, items = _evidence(stage, story)
        files = write_items(folder, items) if items and story.with_items else {}
        if stage == "evaluate":
            rows = [list(row) for row in zip(*items.values(), strict=True)][:8]
            (folder / "samples.table.json").write_text(
                json.dumps({"columns": list(items), "data": rows})
            )
            files["samples"] = "samples.table.json"
        intervals = {
            name: wilson(metrics[name] * n, n)
            for name, n in _shares(story).items()
            if name in metrics
        }
        result = StageResult(
            stage=stage,
            digest=spec.digest,
            outputs=outputs,
            metrics=metrics,
            counts=_shares(story),
            intervals=intervals,
            files=files,
            seconds=12.5,
            environment={"python": "3.11", "torch": "2.13"},
        )
        sample = {
            "step": 1,
            "time": 1.0,
            "metrics": {"system/stage_memory_mib": 700.0 + 100 * story.lift},
        }
        (folder / FILE).write_text(json.dumps(sample) + "\n")
        (folder / "result.json").write_text(result.model_dump_json())
        return StageRecord(
            stage=stage, run_dir=folder, status="FINISHED", started=now(), ended=now()
        )


def _shares(story: Story) -> dict[str, int]:
    return {"reward/accuracy": story.pairs, "eval/win_rate": story.prompts}


def _curves(run: RunDir, stage: str, story: Story) -> None:
    for step in range(1, 21):
        rise = story.lift * (1 - math.exp(-step / 6))
        metrics = {
            "sft": {"sft/loss": 2.0 / step},
            "reward": {"reward/loss": 0.7 - 0.01 * step},
            "ppo": {
                "ppo/score_mean": rise,
                "ppo/kl_per_response": 0.3 * step,
                "ppo/response_tokens": 20.0 + step,
            },
        }
        run.log(step, 20, metrics.get(stage, {}))


def _evidence(stage: str, story: Story) -> tuple[dict[str, float], dict[str, list]]:
    if stage == "reward":
        return _pairs(story)
    if stage == "evaluate":
        return _replies(story)
    final = {
        "validate": {"data/comparisons_train": 600.0},
        "sft": {"sft/heldout_loss": 2.0, "sft/heldout_improvement": 1.0},
    }
    return final.get(stage, {"ppo/score_mean": story.lift, "ppo/kl_per_response": 6.0}), {}


def _pairs(story: Story) -> tuple[dict[str, float], dict[str, list]]:
    rng = random.Random(f"{story.reward} {story.accuracy}")
    right = [place < round(story.accuracy * story.pairs) for place in range(story.pairs)]
    rng.shuffle(right)
    margins = [abs(rng.gauss(1.0, 0.6)) * (1 if good else -1) for good in right]
    count = range(story.pairs)
    items: dict[str, list] = {
        "pair_id": [item_id(f"pair {place}") for place in count],
        "prompt": [f"pair {place}" for place in count],
        "chosen": ["good"] * story.pairs,
        "rejected": ["bad"] * story.pairs,
        "chosen_score": margins,
        "rejected_score": [0.0] * story.pairs,
        "chosen_tokens": [5 + place % 3 for place in count],
        "rejected_tokens": [6] * story.pairs,
    }
    return {"reward/accuracy": sum(right) / story.pairs}, items


def _replies(story: Story) -> tuple[dict[str, float], dict[str, list]]:
    rng, count = random.Random(0), range(story.prompts)
    prompts = [f"Tell me about {TOPICS[place % len(TOPICS)]}, number {place}." for place in count]
    sft = [rng.gauss(0, 1) for _ in count]
    noise = random.Random(story.seed)
    policy = [score + story.lift + noise.gauss(0, 0.4) for score in sft]
    items: dict[str, list] = {"prompt_id": [item_id(prompt) for prompt in prompts]}
    items |= {"prompt": prompts}
    items |= _columns("policy", [f"{story.reply} ({place})" for place in count], policy)
    items |= _columns("sft", [f"The SFT model's reply {place}" for place in count], sft)
    if story.champion:
        items |= _columns(
            "champion", [f"The champion's reply {place}" for place in count], [s + 0.5 for s in sft]
        )
    items["policy_kl"] = [abs(noise.gauss(6, 1)) for _ in count]
    wins = sum(a > b for a, b in zip(policy, sft, strict=True)) / story.prompts
    means = {
        "eval/score_policy": "policy_score",
        "eval/score_sft": "sft_score",
        "eval/length_policy": "policy_tokens",
        "eval/independent_policy": "policy_independent",
        "eval/kl_per_response": "policy_kl",
    }
    metrics = {name: sum(items[column]) / story.prompts for name, column in means.items()}
    return metrics | {
        "eval/win_rate": wins,
        "eval/prompts": float(story.prompts),
        "eval/alignment_tax": 0.1,
    }, items


def _columns(model: str, replies: list[str], scores: list[float]) -> dict[str, list]:
    count = range(len(replies))
    return {
        f"{model}_reply": replies,
        f"{model}_score": scores,
        f"{model}_tokens": [20 + place % 5 for place in count],
        f"{model}_ended": [place % 9 > 0 for place in count],
        f"{model}_repetition": [0.01 * (place % 4) for place in count],
        f"{model}_independent": [score / 2 for score in scores],
    }

"""Report on a run's reward model: slices, calibration, curves, mistakes, use of more labels."""

from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from rlhf_core.config.stage_configs import RewardStageConfig
from rlhf_core.digest import code_digest
from rlhf_core.errors import BadInput, ConfigError
from rlhf_core.evidence.items import Columns, read_items
from rlhf_core.judging import onpolicy_pairs
from rlhf_core.reward.slices import Bin, Slice, calibration, margins, mistakes, slices
from rlhf_core.rundir import StageResult, StageSpec, new_lines
from rlhf_core.stage_catalogue import EVALUATE, NEW_HELDOUT, NEW_TRAIN, PPO, REWARD, UNSEEN
from rlhf_core.statistics.bounded import widened
from rlhf_core.statistics.clusters import Clusters, bootstrap_clustered, count_clusters
from tasks.analysis.pairing import clusters_in
from tasks.analysis.rater_agreement import RaterAgreement, rater_agreements
from tasks.analysis.run_evidence import Curve, estimates
from tasks.execution.stage_process import run_stage
from tasks.records.run_record import Record, StageRecord
from tasks.records.workspace import Workspace

MISTAKES = 20
# inputs of a reward stage that the stages of a learning curve do not have
NO_PART_OF_THE_CURVE = (
    "start",
    "before",
    *(f"{split}{UNSEEN}" for split in ("comparisons_heldout", NEW_HELDOUT)),
)


@dataclass(frozen=True)
class LearningPoint:
    """The reward model trained on `pairs` pairs, with the 95% interval of its accuracy."""

    pairs: int
    accuracy: float
    low: float
    high: float
    loss: float
    # accuracy less that of the point before, over the same pairs: value, low, high
    gain: tuple[float, float, float] | None = None


@dataclass(frozen=True)
class OnPolicyCheck:
    """One check, during PPO, of the reward model on pairs of the policy's own replies."""

    step: int
    pairs: int
    labelled: int
    margin: float
    accuracy: tuple[float, float, float] | None  # value, low, high
    fall: tuple[float, float, float] | None  # since the first check: value, low, high


@dataclass(frozen=True)
class RewardReport:
    """The content of `rlhf reward-report`."""

    run: str
    metrics: dict[str, dict]  # name -> value, low, high, n
    verdict: str
    curves: dict[str, Curve]
    slices: list[Slice]
    calibration: list[Bin]
    mistakes: list[dict]
    learning_curve: list[LearningPoint]
    pairs: int  # held-out
    prompts: int  # different prompts of these pairs
    checks: list[OnPolicyCheck] = field(default_factory=list)
    agreement: list[RaterAgreement] = field(default_factory=list)  # with the evaluation's judge

    def as_json(self) -> dict:
        """Return the report as JSON values."""
        return asdict(self)


def report(
    record: Record, *, shares: list[float], workspace: Workspace, labels: Path | None = None
) -> RewardReport:
    """Return the report of a recorded run.

    shares: parts of the training pairs on which further models are trained for the learning curve;
    none: no curve. labels: a person's choices between the policy's own replies. Raises ConfigError
    when the run has no finished reward stage, BadInput when its evidence is gone.
    """
    stage = record.stage(REWARD.name)
    result = stage.result if stage else None
    if stage is None or result is None:
        raise ConfigError(
            f"{record.name} has no finished reward stage; expected a run that came past it (see"
            " rlhf status)."
        )
    if "items" not in result.files and "label_items" in result.files:
        raise ConfigError(
            f"the reward model of {record.name} was measured on feedback alone, and this report is"
            " of comparisons; expected a run with data.comparisons. Its labels are in"
            f" {stage.run_dir / result.files['label_items']}."
        )
    items = _items(stage.run_dir, result)
    return RewardReport(
        run=record.name,
        metrics={name: asdict(value) for name, value in estimates(result.model_dump()).items()},
        verdict=stage.verdict,
        curves={name: curve for name in REWARD.live if (curve := _curve(stage, name))},
        slices=slices(items),
        calibration=calibration(items),
        mistakes=mistakes(items, MISTAKES),
        learning_curve=learning_curve(stage, shares, workspace) if shares else [],
        pairs=len(items["pair_id"]),
        prompts=count_clusters(clusters_in(items), np.ones(len(items["pair_id"]))),
        checks=checks(record, labels),
        agreement=_agreement(record),
    )


def _agreement(record: Record) -> list[RaterAgreement]:
    """Return the agreement of reward model, people and judge; none without a judge."""
    stage = record.stage(EVALUATE.name)
    result = stage.result if stage else None
    return rater_agreements(estimates(result.model_dump())) if result else []


def checks(record: Record, labels: Path | None) -> list[OnPolicyCheck]:
    """Return the checks that the run's PPO made, with a person's labels where they are given.

    Raises ConfigError for labels without checks, BadInput for bad labels.
    """
    stage = record.stage(PPO.name)
    found = onpolicy_pairs.read_checks(stage.run_dir / onpolicy_pairs.FOLDER) if stage else {}
    if labels:
        if not found:
            raise ConfigError(
                f"{record.name} has no pairs to label; expected a run with ppo.reward_check set."
            )
        found = onpolicy_pairs.with_labels(found, labels)
    return [_check(found, step) for step in found]


def _check(found: dict[int, list[dict]], step: int) -> OnPolicyCheck:
    output = onpolicy_pairs.check_output(found, step)

    def estimate(name: str) -> tuple[float, float, float] | None:
        return (output.metrics[name], *output.intervals[name]) if name in output.metrics else None

    return OnPolicyCheck(
        step=step,
        pairs=len(found[step]),
        labelled=int(output.metrics.get("ppo/onpolicy_pairs", 0)),
        margin=output.metrics.get("ppo/onpolicy_margin", 0.0),
        accuracy=estimate("ppo/onpolicy_accuracy"),
        fall=estimate("ppo/onpolicy_fall") if step else None,
    )


def _items(run_dir: Path, result: StageResult) -> Columns:
    path = run_dir / result.files.get("items", "")
    if not path.is_file():
        raise BadInput(
            f"{run_dir} has no items.parquet, the scores of each pair; delete the folder and run"
            " the recipe again."
        )
    return read_items(path)


def _curve(stage: StageRecord, name: str) -> Curve:
    lines, _ = new_lines(stage.run_dir / "metrics.jsonl", 0)
    return [(line["step"], line["metrics"][name]) for line in lines if name in line["metrics"]]


def learning_curve(
    stage: StageRecord, shares: list[float], workspace: Workspace
) -> list[LearningPoint]:
    """Return held-out accuracy against training pairs, one stage per share.

    The training pairs are nested: each stage takes the first pairs of one seeded order, and all new
    comparisons. Each starts from the SFT model: a reward model to go on from (reward.start) has
    seen pairs already, so that the last point is then trained anew too. The stages are kept beside
    the others and are not repeated. Raises ConfigError when the run measured a given model.
    """
    spec, whole = stage.spec, stage.result
    assert spec and whole, "a finished stage has both"
    if not _config(spec).train:
        raise ConfigError(
            "this reward model was given, not trained, so there is no learning curve; drop"
            " --learning-curve."
        )
    wanted = counts(spec, shares)
    if "start" in spec.inputs:
        wanted.append(training_pairs(spec))
    specs = {count: _with_pairs(spec, count) for count in wanted}
    runs = {count: run_stage(part, workspace.run_dir(part)) for count, part in specs.items()}
    found = {count: (run.result, _items(run.run_dir, run.result)) for count, run in runs.items()}
    found.setdefault(training_pairs(spec), (whole, _items(stage.run_dir, whole)))
    points: list[LearningPoint] = []
    before: np.ndarray | None = None
    for count, (result, items) in sorted(found.items()):
        right_N = (margins(items) > 0).astype(float)
        gained_N = None if before is None else right_N - before
        points.append(_point(count, result, gained_N, clusters_in(items)))
        before = right_N
    return points


def _point(
    pairs: int, result: StageResult, gained_N: np.ndarray | None, clusters: Clusters
) -> LearningPoint:
    gain = None
    if gained_N is not None:
        interval = bootstrap_clustered([(1, gained_N, np.ones(len(gained_N)))], clusters)
        gain = (float(gained_N.mean()), *widened(interval, gained_N, clusters))
    accuracy, low, high, loss = (
        result.metrics[f"reward/{name}"]
        for name in ("accuracy", "accuracy_lower", "accuracy_upper", "heldout_loss")
    )
    return LearningPoint(pairs, accuracy, low, high, loss, gain)


def counts(spec: StageSpec, shares: list[float]) -> list[int]:
    """Return the numbers of training pairs for shares of them, without the whole number.

    Raises ConfigError for a share outside (0, 1), and for one that the new comparisons exceed.
    """
    if wrong := [share for share in shares if not 0 < share < 1]:
        raise ConfigError(
            f"--learning-curve has {wrong[0]:g}; expected shares of the training pairs between 0"
            " and 1."
        )
    whole, new = training_pairs(spec), _rows(spec, NEW_TRAIN)
    found = sorted({max(1, round(share * whole)) for share in shares} - {whole})
    if found and found[0] <= new:
        raise ConfigError(
            f"--learning-curve has a share of {found[0]} of {whole} training pairs, {new} of which"
            " are new comparisons, which every point is trained on; expected shares above"
            f" {new / whole:.2f}."
        )
    return found


def training_pairs(spec: StageSpec) -> int:
    """Return the number of pairs that the stage trained on, the new comparisons with the others."""
    there = _rows(spec, "comparisons_train")
    return min(there, _config(spec).reward.max_train or there) + _rows(spec, NEW_TRAIN)


def _rows(spec: StageSpec, split: str) -> int:
    if split not in spec.inputs:
        return 0
    with spec.inputs[split].verified().path.open(encoding="utf-8") as file:
        return sum(1 for _ in file)


def _config(spec: StageSpec) -> RewardStageConfig:
    return RewardStageConfig.model_validate(spec.config)


def _with_pairs(spec: StageSpec, count: int) -> StageSpec:
    config = _config(spec)
    reward = config.reward.model_copy(update={"max_train": count - _rows(spec, NEW_TRAIN)})
    config = config.model_copy(update={"reward": reward})
    inputs = {name: item for name, item in spec.inputs.items() if name not in NO_PART_OF_THE_CURVE}
    return spec.model_copy(update={"config": config, "inputs": inputs, "code": code_digest()})

"""Contests with a champion from real items, made without models."""

import tempfile
from pathlib import Path

import torch

from rlhf_core.config import Contest, Evaluate
from rlhf_core.contest.verdict import Look, decide_contest
from rlhf_core.digest import digest_json
from rlhf_core.evidence.items import Columns, write_items
from rlhf_core.gates.decide import Decision, Subject
from rlhf_core.rundir import Artifact, StageResult, StageSpec
from rlhf_core.statistics.paired import win_rate

PROMPTS = 250


def artifact(name: str, digest: str | None = None) -> Artifact:
    return Artifact(path=Path(name), digest=digest or digest_json(name))


def items_with(won: dict[str, list[float]]) -> Columns:
    """Return items on which the policy scores 1, 0.5 or 0 by each scorer, the champion 0.5.

    won: 1 for a prompt won, 0.5 for a tie, 0 for one lost, by the column's ending.
    """
    columns: Columns = {}
    for ending, outcomes in won.items():
        columns[f"policy_{ending}"] = [float(value) for value in outcomes]
        columns[f"champion_{ending}"] = [0.5] * len(outcomes)
    return columns


def outcomes(share: float, n: int = PROMPTS) -> list[float]:
    """Return n outcomes, of which `share` are won and none is a tie."""
    wins = round(share * n)
    return [1.0] * wins + [0.0] * (n - wins)


METRIC_OF = {
    "score": "eval/win_rate_vs_champion",
    "by_champions_reward": "eval/win_rate_vs_champion_by_its_reward",
    "independent": "eval/independent_win_rate_vs_champion",
}


def evaluated(
    folder: Path,
    won: dict[str, list[float]],
    *,
    policy: str | None = None,
    champion: str | None = None,
    heldout: str = "heldout",
    prompts: list[str] | None = None,
) -> Subject:
    """Return a finished evaluation in `folder` with these outcomes against the champion.

    prompts: the ids of its prompts; without them, items name no prompts, as earlier ones.
    """
    inputs = {
        "policy": artifact("policy", policy),
        "champion": artifact("champion", champion),
        "reward": artifact("reward"),
        "prompts_heldout": artifact(heldout),
    }
    if "by_champions_reward" in won:
        inputs["champion_reward"] = artifact("other reward")
    spec: StageSpec = StageSpec(stage="evaluate", seed=1, config={}, inputs=inputs, code="source")
    columns, metrics, counts = items_with(won), {}, {}
    for ending in won:
        ours, theirs = (torch.tensor(columns[f"{m}_{ending}"]) for m in ("policy", "champion"))
        metrics[METRIC_OF[ending]] = win_rate(ours, theirs)[0]
        counts[METRIC_OF[ending]] = len(ours)
    if prompts is not None:
        columns["prompt_id"] = prompts
    result = StageResult(
        stage="evaluate",
        digest=spec.digest,
        seconds=1.0,
        metrics=metrics,
        counts=counts,
        files=write_items(folder, columns),
    )
    return Subject(result, spec, folder, commit="abc1234")


def contest_record(
    policy: str,
    champion: str,
    wins: float,
    look: int = 1,
    *,
    heldout: str = "heldout",
    prompts: list[str] | None = None,
    contest: Contest | None = None,
    won: dict[str, list[float]] | None = None,
) -> Decision:
    """Return the record of a contest that the policy wins on `wins` of the prompts.

    won: the outcomes by each scorer, in place of `wins` by the reward model.
    """
    with tempfile.TemporaryDirectory() as folder:
        won = won or {"score": outcomes(wins, PROMPTS if prompts is None else len(prompts))}
        subject = evaluated(
            Path(folder), won, policy=policy, champion=champion, heldout=heldout, prompts=prompts
        )
        return decide_contest(contest or Contest(), Evaluate(), subject, Look(look))

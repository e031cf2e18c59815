"""Agreement of the judge, the reward model and people, on held-out pairs that people labelled.

Each of the three prefers one reply of a pair, or neither. The judge is asked in both orders, as for
the policy's replies, and does not see the label.
"""

from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from rlhf_core.batching.batch import subset
from rlhf_core.config.stage_configs import EvaluateStageConfig
from rlhf_core.data.splits import load_split
from rlhf_core.data.tokenizer import load_tokenizer
from rlhf_core.evaluation.judged import verdict_columns
from rlhf_core.evidence.items import Columns, last_user_turn, prompt_id
from rlhf_core.judging.functions import conversation
from rlhf_core.judging.verdicts import AskJudge, JudgeVerdict, compare
from rlhf_core.modeling.ensemble import load_members
from rlhf_core.reward.scoring import member_scores, pair_sequences
from rlhf_core.rundir import Output, StageSpec, merged
from rlhf_core.statistics.agreement import PairAgreement, pair_agreement
from rlhf_core.statistics.clusters import Clusters, clusters_of, count_clusters

SPLIT = "comparisons_heldout"
FILE = "judged_pairs.parquet"


@dataclass(frozen=True)
class LabelledPairs:
    """Held-out comparisons; scores: the reward model's of (chosen, rejected), None without one."""

    rows: list[dict]
    scores: list[tuple[float, float]] | None


def labelled_pairs(spec: StageSpec[EvaluateStageConfig]) -> LabelledPairs | None:
    """Return the pairs that the judge is asked about; None without a judge, or without such data.

    All ranks score, and all return the same.
    """
    config = spec.config.evaluate
    if config.judge is None or not config.judge.agreement_pairs or SPLIT not in spec.inputs:
        return None
    drawn_by = spec.config.heldout_seed(spec.seed)  # runs of other seeds ask about the same pairs
    rows = subset(load_split(spec.inputs[SPLIT].path), config.judge.agreement_pairs, seed=drawn_by)
    if "reward" not in spec.inputs:
        return LabelledPairs(rows, None)
    path = spec.inputs["reward"].path
    tokenizer = load_tokenizer(path)
    forwards = load_members(
        path,
        dtype=spec.config.dtype,
        frozen=config.frozen,
        weights=spec.config.frozen_dtype,
        packing=config.packing,
    )
    sequences = pair_sequences(tokenizer, rows)
    budget, pad_id = config.micro_batch_tokens, tokenizer.pad_token_id
    scores_MN = member_scores(forwards, sequences, pad_id, budget, packing=config.packing)
    scores_N = scores_MN.mean(0).tolist()
    return LabelledPairs(rows, list(zip(scores_N[0::2], scores_N[1::2], strict=True)))


def judge_labelled(
    pairs: LabelledPairs, ask: AskJudge, folder: Path
) -> tuple[Output, list[JudgeVerdict]]:
    """Return the agreement of judge, reward model and people, and the judge's verdicts.

    Writes judged_pairs.parquet: pair_id, prompt_id, prompt, chosen, rejected; chosen_score and
    rejected_score with a reward model; judge (1 for the chosen reply, 0.5 tie, 0 for the rejected
    one, null unreadable), judge_chosen_first and judge_chosen_second (the same by order), and their
    _reason.
    """
    prompts = [conversation(row["prompt"]) for row in pairs.rows]
    chosen, rejected = ([row[side] for row in pairs.rows] for side in ("chosen", "rejected"))
    verdicts = compare(ask, prompts, chosen, rejected)
    columns = _columns(pairs, verdicts)
    pq.write_table(pa.table(columns), folder / FILE)
    found = agreement_output(_preferences(pairs, verdicts), clusters_of(columns["prompt_id"]))
    return merged([found, Output(files={"judged_pairs": FILE})]), verdicts


def _columns(pairs: LabelledPairs, verdicts: list[JudgeVerdict]) -> Columns:
    rows = pairs.rows
    columns: Columns = {
        "pair_id": [prompt_id(row["prompt"], row["chosen"], row["rejected"]) for row in rows],
        "prompt_id": [prompt_id(row["prompt"]) for row in rows],
        "prompt": [last_user_turn(row["prompt"]) for row in rows],
        "chosen": [row["chosen"] for row in rows],
        "rejected": [row["rejected"] for row in rows],
    }
    if pairs.scores is not None:
        columns["chosen_score"] = [chosen for chosen, _ in pairs.scores]
        columns["rejected_score"] = [rejected for _, rejected in pairs.scores]
    return columns | verdict_columns([*verdicts], "judge", "chosen")


def _preferences(pairs: LabelledPairs, verdicts: list[JudgeVerdict]) -> dict[str, np.ndarray]:
    """Return by rater 1 for the chosen reply, 0.5 tie, 0 for the rejected one, NaN none, (N,)."""
    outcomes = [verdict.outcome for verdict in verdicts]
    found = {"judge": np.array(outcomes, float)}
    if pairs.scores is not None:
        margins_N = np.array([chosen - rejected for chosen, rejected in pairs.scores])
        found["reward"] = (np.sign(margins_N) + 1) / 2
    return found | {"people": np.ones(len(outcomes))}


def agreement_output(preferred: dict[str, np.ndarray], clusters: Clusters) -> Output:
    """Return the agreement of each two raters, raw and as Krippendorff's alpha, with intervals.

    preferred: as in `_preferences`, 'judge' among them. Pairs on which one of the two has no
    preference are left out; two raters without any other pair have no agreement.
    """
    judge_N = preferred["judge"]
    read_N = np.isfinite(judge_N)
    n = int(read_N.sum())
    metrics: dict[str, float] = {
        "eval/agreement_pairs": n,
        "eval/agreement_prompts": count_clusters(clusters, read_N.astype(float)),
    }
    if n:
        metrics["eval/agreement_judge_ties"] = float((judge_N == 0.5).sum()) / n
    parts = [Output(metrics=metrics, counts=dict.fromkeys(metrics, n))]
    for one, other in combinations(preferred, 2):
        if found := pair_agreement(preferred[one], preferred[other], clusters):
            parts.append(_agreement_metrics(f"{one}_{other}", found))
    return merged(parts)


def _agreement_metrics(raters: str, found: PairAgreement) -> Output:
    metrics: dict[str, float] = {}
    intervals: dict[str, tuple[float, float]] = {}
    for name, value, ends in (
        (f"eval/agreement_{raters}", found.share, found.share_interval),
        (f"eval/alpha_{raters}", found.alpha, found.alpha_interval),
    ):
        metrics |= {name: value, f"{name}_lower": ends[0], f"{name}_upper": ends[1]}
        intervals |= {name: ends, f"{name}_lower": ends}
    return Output(metrics=metrics, counts=dict.fromkeys(metrics, found.n), intervals=intervals)

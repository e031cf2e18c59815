"""The judge on the policy's replies, against the SFT model's and the champion's."""

from rlhf_core.evaluation.comparison import combined
from rlhf_core.evaluation.replies import Replies, Setup
from rlhf_core.evidence.items import Columns
from rlhf_core.judging.functions import conversation
from rlhf_core.judging.judge import judged_rows
from rlhf_core.judging.judge_metrics import judge_output
from rlhf_core.judging.verdicts import AskJudge, JudgeVerdict, compare
from rlhf_core.rundir import Output

RIVALS = ("sft", "champion")


def judge_replies(
    setup: Setup, ask: AskJudge, replies: dict[str, Replies], prompt_ids: list[str]
) -> tuple[Output, Columns, list[JudgeVerdict]]:
    """Return the judge's comparisons as metrics and by item, and all its verdicts.

    An item that was not judged has None in every column.
    """
    assert setup.config.judge is not None  # it was loaded from this configuration
    drawn_by = setup.seed if setup.drawn_by is None else setup.drawn_by
    rows = judged_rows(len(setup.rows), setup.config.judge.max_pairs, seed=drawn_by)
    prompts = [conversation(setup.rows[i]["prompt"]) for i in rows]
    ours = [replies["policy"].texts[i] for i in rows]
    parts: list[Output] = []
    columns: Columns = {}
    everything: list[JudgeVerdict] = []
    for name in [name for name in RIVALS if name in replies]:
        verdicts = compare(ask, prompts, ours, [replies[name].texts[i] for i in rows])
        suffix = "" if name == "sft" else f"_vs_{name}"
        parts.append(judge_output(verdicts, suffix, [prompt_ids[i] for i in rows]))
        by_row = dict(zip(rows, verdicts, strict=True))
        judged = [by_row.get(i) for i in range(len(setup.rows))]
        columns |= verdict_columns(judged, f"judge_vs_{name}", "policy")
        everything += verdicts
    return combined(parts, len(rows)), columns, everything


def verdict_columns(verdicts: list[JudgeVerdict | None], name: str, ours: str) -> Columns:
    """Return verdicts as columns: the outcome `name`, each order's answer, and the reasons.

    ours: whose reply 1 stands for. None: not judged. Without reasons there are no such columns.
    """
    columns: Columns = {name: [verdict and verdict.outcome for verdict in verdicts]}
    first = [verdict and verdict.ours_first.outcome for verdict in verdicts]
    second = [verdict.theirs_first.outcome if verdict else None for verdict in verdicts]
    columns[f"{name}_{ours}_first"] = first
    columns[f"{name}_{ours}_second"] = [None if one is None else 1 - one for one in second]
    reasons = {
        f"{name}_{ours}_first_reason": [v and v.ours_first.reason for v in verdicts],
        f"{name}_{ours}_second_reason": [v and v.theirs_first.reason for v in verdicts],
    }
    return columns | {key: found for key, found in reasons.items() if any(found)}

"""Pairs of the policy's own replies, scored by the reward model, with or without labels.

onpolicy/step-000010.jsonl of a PPO run directory has one pair per line: {"id", "step", "prompt",
"reply_a", "reply_b", "score_a", "score_b", "label"}. label: 1 a is better, 0.5 tie, 0 b is better,
null not labelled. A judge behind an endpoint adds "judge_tokens", [prompt tokens, completion
tokens] per answer, and with reasons "judge_reasons".
"""

import json
from pathlib import Path

from rlhf_core.errors import BadInput
from rlhf_core.rundir import Output
from rlhf_core.statistics.intervals import newcombe, wilson

FOLDER = "onpolicy"
Pair = dict


def read_checks(folder: Path) -> dict[int, list[Pair]]:
    """Return the pairs of every check, by step."""
    files = sorted(folder.glob("step-*.jsonl"))
    return {
        int(file.stem.partition("-")[2]): [json.loads(line) for line in file.open(encoding="utf-8")]
        for file in files
    }


def with_labels(found: dict[int, list[Pair]], labels: Path) -> dict[int, list[Pair]]:
    """Return the checks with labels from a person's file.

    Its lines are {"id", "label"}, label 'a', 'b' or 'tie', or 1, 0, 0.5. Raises BadInput for
    another line, an unknown id, or a file without any label.
    """
    known = {pair["id"] for pairs in found.values() for pair in pairs}
    given = dict(
        _label(labels, number, line, known)
        for number, line in enumerate(labels.open(encoding="utf-8"), 1)
        if line.strip()
    )
    if not given:
        raise BadInput(f'{labels} holds no labels; expected lines {{"id": "...", "label": "a"}}.')
    return {
        step: [pair | {"label": given.get(pair["id"], pair["label"])} for pair in pairs]
        for step, pairs in found.items()
    }


def _label(file: Path, number: int, line: str, known: set[str]) -> tuple[str, float]:
    words = {"a": 1.0, "b": 0.0, "tie": 0.5, "1": 1.0, "0": 0.0, "1.0": 1.0, "0.0": 0.0, "0.5": 0.5}
    try:
        row = json.loads(line)
        key, label = row["id"], words[str(row["label"]).lower()]
    except (ValueError, KeyError, TypeError):
        raise BadInput(
            f'{file} line {number}: {line.strip()!r:.80}; expected {{"id": "...", "label": "a", "b"'
            ' or "tie"}.'
        ) from None
    if key not in known:
        raise BadInput(
            f"{file} line {number}: id {key!r} is no pair of this run; expected those of its"
            " onpolicy.jsonl."
        )
    return key, label


def ranked_as_labelled(pairs: list[Pair]) -> tuple[int, int]:
    """Return the number of pairs ranked as labelled, and of pairs with a label that is no tie.

    Equal scores are wrong.
    """
    decided = [pair for pair in pairs if pair["label"] in (0.0, 1.0)]
    right = sum((pair["score_a"] - pair["score_b"]) * (pair["label"] - 0.5) > 0 for pair in decided)
    return right, len(decided)


def check_output(found: dict[int, list[Pair]], step: int) -> Output:
    """Return the metrics of the check at `step`, with intervals.

    They include the fall from the first check. Without labels there is no accuracy.
    """
    pairs = found[step]
    apart = [abs(pair["score_a"] - pair["score_b"]) for pair in pairs]
    metrics: dict[str, float] = {}
    intervals: dict[str, tuple[float, float]] = {}
    if apart:
        metrics["ppo/onpolicy_margin"] = sum(apart) / len(apart)
    right, n = ranked_as_labelled(pairs)
    first_right, first_n = ranked_as_labelled(found.get(0, []))
    if n:
        metrics |= {"ppo/onpolicy_accuracy": right / n, "ppo/onpolicy_pairs": n}
        intervals["ppo/onpolicy_accuracy"] = wilson(right, n)
    if n and first_n:
        fall, low, high = newcombe(first_right, first_n, right, n)
        metrics |= {"ppo/onpolicy_accuracy_start": first_right / first_n, "ppo/onpolicy_fall": fall}
        intervals |= {
            "ppo/onpolicy_accuracy_start": wilson(first_right, first_n),
            "ppo/onpolicy_fall": (low, high),
        }
    counted = dict.fromkeys(metrics, n or len(pairs)) | {
        "ppo/onpolicy_margin": len(pairs),
        "ppo/onpolicy_accuracy_start": first_n,
    }
    return Output(
        metrics=metrics, intervals=intervals, counts={name: counted[name] for name in metrics}
    )

"""Pairs of the policy's own replies, scored by the reward model, with or without labels.

onpolicy/step-000010.jsonl of a PPO run directory has one pair per line: {"id", "step", "prompt",
"reply_a", "reply_b", "score_a", "score_b", "label"}. label: 1 a is better, 0.5 tie, 0 b is better,
null not labelled. A judge behind an endpoint adds "judge_tokens", [prompt tokens, completion
tokens] per answer, and with reasons "judge_reasons".
"""

import json
from pathlib import Path

import numpy as np

from rlhf_core.errors import BadInput
from rlhf_core.rundir import Output
from rlhf_core.statistics.clusters import Clusters, clusters_of, wilson_clustered
from rlhf_core.statistics.intervals import mover

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
    right_N, _ = _ranking(pairs)
    return int(right_N.sum()), len(right_N)


def _ranking(pairs: list[Pair]) -> tuple[np.ndarray, Clusters]:
    """Return 1 for each decided pair that is ranked as labelled, else 0, and the pairs' prompts."""
    decided = [pair for pair in pairs if pair["label"] in (0.0, 1.0)]
    right = [(one["score_a"] - one["score_b"]) * (one["label"] - 0.5) > 0 for one in decided]
    return np.array(right, dtype=float), clusters_of([one["prompt"] for one in decided])


def _interval(right_N: np.ndarray, clusters: Clusters) -> tuple[float, float]:
    return wilson_clustered(right_N, np.ones(len(right_N)), clusters)


def check_output(found: dict[int, list[Pair]], step: int) -> Output:
    """Return the metrics of the check at `step`, with intervals.

    They include the fall from the first check, whose pairs count as others than these, though their
    prompts are the same: that makes its interval wider. Pairs that share a prompt are sampled as
    one. Without labels there is no accuracy.
    """
    pairs = found[step]
    apart = [abs(pair["score_a"] - pair["score_b"]) for pair in pairs]
    metrics: dict[str, float] = {}
    intervals: dict[str, tuple[float, float]] = {}
    if apart:
        metrics["ppo/onpolicy_margin"] = sum(apart) / len(apart)
    ranking, first = _ranking(pairs), _ranking(found.get(0, []))
    n, first_n = len(ranking[0]), len(first[0])
    if n:
        accuracy, interval = float(ranking[0].sum()) / n, _interval(*ranking)
        metrics |= {"ppo/onpolicy_accuracy": accuracy, "ppo/onpolicy_pairs": n}
        intervals["ppo/onpolicy_accuracy"] = interval
        if first_n:
            start, of_start = float(first[0].sum()) / first_n, _interval(*first)
            metrics |= {"ppo/onpolicy_accuracy_start": start, "ppo/onpolicy_fall": start - accuracy}
            intervals |= {
                "ppo/onpolicy_accuracy_start": of_start,
                "ppo/onpolicy_fall": mover(start, of_start, accuracy, interval),
            }
    counted = dict.fromkeys(metrics, n or len(pairs)) | {
        "ppo/onpolicy_margin": len(pairs),
        "ppo/onpolicy_accuracy_start": first_n,
    }
    return Output(
        metrics=metrics, intervals=intervals, counts={name: counted[name] for name in metrics}
    )

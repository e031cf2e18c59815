"""Gates on detectors refuse planted hacks, and detectors leave figures and worst items."""

import json
import random

import pytest

from rlhf_core.config.evaluate_gate import EvaluateGate
from rlhf_core.digest import digest_json
from rlhf_core.evaluation.detector_report import WORST, write_report
from rlhf_core.evaluation.detectors import detect
from rlhf_core.evaluation.ngrams import repetition
from rlhf_core.gates.decide import Gate, Subject, decide
from rlhf_core.metrics import require_declared
from rlhf_core.rundir import StageResult, StageSpec

GATE = EvaluateGate(
    max_opening_share=0.5,
    max_kl_per_reward=5.0,
    max_reward_disagreement=1.0,
    max_independent_down=0.4,
    max_repetition_increase=0.1,
)
DETECTORS = (
    "independent_down",
    "length_correlation",
    "length_correlation_sft",
    "distinct_2",
    "opening",
    "first_word",
    "prompt",
    "kl_per_reward",
    "disagreement",
)


def honest(n: int = 200) -> dict[str, list]:
    """Return item columns of a policy that is better by every measure.

    Its replies are varied, and begin with the number that the prompt has.
    """
    rng = random.Random(0)
    columns = {
        "prompt_id": [f"{i:016x}" for i in range(n)],
        "prompt": [f"prompt {i}" for i in range(n)],
    }
    for name, better in (("policy", 2.0), ("sft", 0.0)):
        quality = [better + rng.gauss(0, 1) for _ in range(n)]
        replies = [
            " ".join([f"{i}", *(f"word{rng.randrange(300)}" for _ in range(rng.randint(8, 24)))])
            for i in range(n)
        ]
        columns |= {f"{name}_reply": replies, f"{name}_ended": [True] * n}
        columns |= {
            f"{name}_score": [q + rng.gauss(0, 0.3) for q in quality],
            f"{name}_independent": quality,
        }
        columns |= {f"{name}_score_2": [q + rng.gauss(0, 0.3) for q in quality]}
    columns["policy_kl"] = [abs(rng.gauss(4, 1)) for _ in range(n)]
    return measured(columns)


def measured(columns: dict[str, list]) -> dict[str, list]:
    """Return the columns with the replies' own lengths and repetition."""
    for name in ("policy", "sft"):
        split = [text.split() for text in columns[f"{name}_reply"]]
        columns |= {
            f"{name}_tokens": [len(said) + 1 for said in split],
            f"{name}_repetition": [repetition(s) for s in split],
        }
    return columns


def same_opening(columns: dict[str, list]) -> dict[str, list]:
    return measured(
        columns | {"policy_reply": [f"what a question {text}" for text in columns["policy_reply"]]}
    )


def same_first_word(columns: dict[str, list]) -> dict[str, list]:
    return measured(columns | {"policy_reply": [f"a {text}" for text in columns["policy_reply"]]})


def other_prompts_are_answered(columns: dict[str, list]) -> dict[str, list]:
    replies = columns["policy_reply"]
    return measured(columns | {"policy_reply": [*replies[1:], replies[0]]})


def longer_is_better(columns: dict[str, list]) -> dict[str, list]:
    scores = {
        f"policy_{name}": [0.2 * tokens for tokens in columns["policy_tokens"]]
        for name in ("score", "score_2")
    }
    scores["policy_independent"] = [value + 3 for value in columns["policy_independent"]]
    return columns | scores


def longer_is_better_at_the_limit(columns: dict[str, list]) -> dict[str, list]:
    """Make every reply of the policy as long as the limit.

    Only the SFT model's replies then show what the score is made of.
    """
    replies = [
        " ".join((text + " " + text + " " + text).split()[:24]) for text in columns["policy_reply"]
    ]
    scores = {
        f"sft_{name}": [0.2 * tokens for tokens in columns["sft_tokens"]]
        for name in ("score", "score_2")
    }
    rng = random.Random(1)
    scores |= {
        f"policy_{name}": [5 + rng.gauss(0, 0.1) for _ in replies] for name in ("score", "score_2")
    }
    return measured(columns | scores | {"policy_reply": replies})


def repeated_words(columns: dict[str, list]) -> dict[str, list]:
    """Make replies that open differently and keep their length, but repeat two words."""
    replies = [
        text.split()[:3] + ["very", "good"] * (len(text.split()) // 2)
        for text in columns["policy_reply"]
    ]
    return measured(columns | {"policy_reply": [" ".join(said) for said in replies]})


def only_the_reward_model_is_pleased(columns: dict[str, list]) -> dict[str, list]:
    return columns | {"policy_independent": [value - 3 for value in columns["sft_independent"]]}


def only_the_first_reward_model_is_pleased(columns: dict[str, list]) -> dict[str, list]:
    return columns | {"policy_score": [value + 4 for value in columns["policy_score"]]}


def dear(columns: dict[str, list]) -> dict[str, list]:
    return columns | {"policy_kl": [10 * value for value in columns["policy_kl"]]}


def refused(columns: dict[str, list], folder) -> list[str]:
    """Return the gates on detectors that refuse these items, decided as in the pipeline."""
    found = detect(columns)
    metrics = {name: value for detection in found for name, value in detection.metrics.items()}
    require_declared(metrics)
    spec = StageSpec(stage="evaluate", seed=1, config={}, inputs={}, code="")
    result = StageResult(stage="evaluate", digest=spec.digest, metrics=metrics, seconds=1.0)
    subject = Subject(result, spec, folder)
    rules = {name: rule for name, rule in GATE.rules().items() if name in DETECTORS}
    assert set(rules) == set(DETECTORS)
    return [
        name
        for name, rule in rules.items()
        if not decide(Gate(name=name, **dict(rule)), subject).passed
    ]


HACKS = {
    same_opening: ["opening", "first_word"],
    same_first_word: ["first_word"],
    other_prompts_are_answered: ["prompt"],
    longer_is_better: ["length_correlation"],
    longer_is_better_at_the_limit: ["length_correlation_sft"],
    repeated_words: ["distinct_2"],
    dear: ["kl_per_reward"],
    only_the_reward_model_is_pleased: ["independent_down"],
    only_the_first_reward_model_is_pleased: ["disagreement"],
}


def test_an_honest_policy_trips_no_detector(tmp_path):
    assert refused(honest(), tmp_path) == []


@pytest.mark.parametrize("hack", HACKS, ids=lambda hack: hack.__name__)
def test_a_planted_hack_trips_exactly_its_detector(hack, tmp_path):
    assert refused(hack(honest()), tmp_path) == HACKS[hack]


def test_missing_evidence_is_refused_not_passed(tmp_path):
    """Gates look at a second reward model, an independent scorer and a price of KL: all absent."""
    columns = {
        name: values
        for name, values in honest().items()
        if not name.endswith(("_score_2", "_independent"))
    }
    columns["policy_score"] = list(columns["sft_score"])
    assert refused(columns, tmp_path) == ["independent_down", "kl_per_reward", "disagreement"]


def test_every_detector_leaves_a_figure_and_its_twenty_worst_items(tmp_path):
    columns = honest()
    found = detect(columns)
    assert {detection.name for detection in found} == {
        "length",
        "repetition",
        "opening",
        "prompt",
        "kl",
        "independent",
        "disagreement",
    }
    for detection in found:
        files = write_report(detection, columns, tmp_path)
        assert (tmp_path / files[f"detector_{detection.name}"]).read_bytes().startswith(b"\x89PNG")
        table = json.loads((tmp_path / files[f"worst_{detection.name}"]).read_text())
        badness = [row[0] for row in table["data"]]
        assert len(badness) == WORST and badness == sorted(badness, reverse=True)
        assert badness[0] == pytest.approx(max(detection.badness_N), abs=1e-4)
        assert {"prompt", "policy_reply", "sft_reply", "policy_score", "policy_kl"} <= set(
            table["columns"]
        )


def test_fewer_items_than_the_table_has_rows_are_all_shown_and_odd_texts_draw(tmp_path):
    columns = {name: values[:3] for name, values in honest(5).items()}
    columns["policy_reply"] = ["$\\frac $x", "", "\n<b>"]
    for detection in detect(columns):
        files = write_report(detection, columns, tmp_path)
        assert (
            len(json.loads((tmp_path / files[f"worst_{detection.name}"]).read_text())["data"]) == 3
        )


def test_detectors_leave_their_columns_alone():
    columns = honest()
    before = digest_json(columns)
    detect(columns)
    assert digest_json(columns) == before

"""Gates at, above and below their threshold, and closed when the evidence is missing."""

import math

import pytest

from rlhf_core.config import load_recipe
from rlhf_core.errors import ConfigError
from rlhf_core.gates import Gate, check_overrides, decide, decide_all
from rlhf_core.rundir import StageResult

REASON = "labels of a judge, not of people"


def result(**metrics: float) -> StageResult:
    values = {f"reward/{name}": value for name, value in metrics.items()}
    return StageResult(stage="reward", digest="d", seconds=1.0, metrics=values)


def gate(bound: str, threshold: float = 0.7) -> Gate:
    return Gate(name="accuracy", metric="reward/accuracy", bound=bound, threshold=threshold)


@pytest.mark.parametrize(
    ("bound", "below", "at", "above"),
    [("at least", False, True, True), ("more than", False, False, True), ("at most", True, True, False)],
)
def test_bounds(bound, below, at, above):
    found = [decide(gate(bound), result(accuracy=value)).passed for value in (0.69, 0.7, 0.71)]
    assert found == [below, at, above]


@pytest.mark.parametrize("bound", ["at least", "more than", "at most"])
@pytest.mark.parametrize("value", [None, math.nan, math.inf, -math.inf])
def test_missing_and_non_finite_values_are_refused(bound, value):
    metrics = {} if value is None else {"accuracy": value}
    decision = decide(gate(bound), result(**metrics))
    assert not decision.passed and decision.value is None
    assert "expected a finite number" in decision.reason


def test_override_lets_a_value_pass_visibly_and_no_lower_one():
    recipe = load_recipe("quickstart", [f'reward.gate.overrides.accuracy={{threshold=0.6, reason="{REASON}", by="ann"}}'])
    good = {"heldout_pairs": 500, "accuracy_lower": 0.61, "accuracy_over_length": 0.2}
    verdicts = {}
    for accuracy in (0.59, 0.65, 0.75):
        decisions = decide_all(recipe, result(accuracy=accuracy, **good))
        verdicts[accuracy] = next(d for d in decisions if d.gate == "accuracy")
    assert [d.verdict for d in verdicts.values()] == ["refused", "overridden", "passed"]
    assert REASON in verdicts[0.65].reason and verdicts[0.75].override is None


def test_override_of_a_gate_that_does_not_exist_is_an_error():
    setting = f'reward.gate.overrides.acuracy={{threshold=0.6, reason="{REASON}"}}'
    with pytest.raises(ConfigError, match=r"acuracy.*'accuracy'"):
        check_overrides(load_recipe("quickstart", [setting]))


def test_policy_that_only_pleases_the_reward_model_is_refused_by_the_independent_scorer():
    recipe = load_recipe("quickstart")
    hacked = StageResult(stage="evaluate", digest="d", seconds=1.0, metrics={"eval/independent_gain_lower": -0.307})
    decision = next(d for d in decide_all(recipe, hacked) if d.gate == "independent")
    assert decision.verdict == "refused"


def test_default_reward_gate_is_seventy_percent_and_needs_better_than_length():
    recipe = load_recipe("smollm2")
    good = {"accuracy": 0.70, "accuracy_lower": 0.65, "heldout_pairs": 100, "accuracy_over_length": 0.01}
    assert all(d.passed for d in decide_all(recipe, result(**good)))
    for worse in ({"accuracy": 0.699}, {"accuracy_lower": 0.59}, {"heldout_pairs": 99}, {"accuracy_over_length": 0.0}):
        assert sum(not d.passed for d in decide_all(recipe, result(**good | worse))) == 1

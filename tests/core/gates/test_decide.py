"""Gates at, above and below their threshold, and with missing, damaged or foreign evidence."""

import math
from datetime import UTC, datetime

import pytest
from gate_cases import BOUNDS, CHAMPION, EVALUATED, GOOD, SURE, TEN, WINS, evaluated, gate
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rlhf_core.config.gate_rules import Override
from rlhf_core.gates.decide import Decision, decide, decide_all, gates_of, refused, worst_verdict

REASON = "labels of a judge, not of people"


# bounds


@pytest.mark.parametrize("bound", BOUNDS)
def test_a_bound_on_the_estimate(subject, bound):
    found = [
        decide(gate(bound), subject("reward", {"accuracy": value})).passed
        for value in (0.69, 0.7, 0.71)
    ]
    assert tuple(found) == BOUNDS[bound]


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None
)
@given(
    value=st.floats(allow_nan=True, allow_infinity=True),
    bound=st.sampled_from(list(BOUNDS)),
    threshold=st.floats(0.01, 0.99),
)
def test_only_a_number_of_the_domain_on_the_right_side_passes(subject, value, bound, threshold):
    decision = decide(gate(bound, threshold), subject("reward", {"accuracy": value}))
    right = {
        "at least": value >= threshold,
        "more than": value > threshold,
        "at most": value <= threshold,
    }
    assert decision.passed == (-1e-6 <= value <= 1 + 1e-6 and right.get(bound, value < threshold))


# the champion


def test_without_a_champion_there_is_nothing_to_compare_and_the_gate_passes(subject):
    first = evaluated(metric="eval/score_policy", versus="champion", of="lower")
    decision = decide(first, subject("evaluate", EVALUATED, WINS, **TEN))
    assert (
        decision.verdict == "passed"
        and decision.value is None
        and "no champion took part" in decision.reason
    )
    assert decision.champion_digest is None


def test_a_loss_to_the_champion_on_the_same_items_is_refused(subject):
    worse = CHAMPION | {"champion_score": [score + 0.1 for score in WINS["policy_score"]]}
    of = subject("evaluate", EVALUATED, worse, champion=True, **TEN)
    decision = decide(evaluated(metric="eval/score_policy", versus="champion", threshold=0.0), of)
    assert decision.verdict == "refused" and decision.value == pytest.approx(-0.1)
    assert "eval/score_policy - champion is -0.1" in decision.reason
    assert decision.champion_digest == of.spec.inputs["champion"].digest


def test_a_metric_against_the_champion_is_a_comparison_already(subject):
    against = evaluated(metric="eval/win_rate_vs_champion", versus="champion", bound="more than")
    assert decide(against, subject("evaluate", EVALUATED)).passed
    of = subject("evaluate", EVALUATED | {"win_rate_vs_champion": 0.85}, CHAMPION, champion=True)
    decision = decide(against, of)  # 8 won, 1 lost, 1 tie
    assert decision.value == 0.85 and decision.interval == pytest.approx(
        (0.5411540, 0.9645731), abs=1e-6
    )
    # the metric is missing
    assert not decide(against, subject("evaluate", EVALUATED, CHAMPION, champion=True)).passed


def test_ties_on_every_item_decide_nothing(subject):
    same = WINS | {"champion_score": WINS["policy_score"]}
    decision = decide(
        evaluated(metric="eval/score_policy", versus="champion", method="sign"),
        subject("evaluate", EVALUATED, same, champion=True, **TEN),
    )
    assert decision.verdict == "refused" and "all are ties" in decision.reason and decision.n == 0


# bytes


@pytest.mark.parametrize("changed", ["trained", "comparisons_heldout"])
@pytest.mark.parametrize("gone", [False, True])
def test_other_bytes_than_those_measured_are_refused_by_every_gate(subject, changed, gone, recipe):
    of = subject("reward", GOOD, **SURE)
    plain = recipe(f'reward.gate.overrides.accuracy={{threshold=0.1, reason="{REASON}"}}')
    assert {decision.verdict for decision in decide_all(plain, of)} == {"passed"}
    (of.run_dir / changed).unlink() if gone else (of.run_dir / changed).write_text("other bytes")
    decisions = decide_all(plain, of)
    assert {decision.verdict for decision in decisions} == {"refused"} and all(
        changed in d.reason for d in decisions
    )


def test_a_result_of_another_spec_is_refused(subject, recipe):
    of = subject("reward", GOOD, **SURE)
    other = type(of)(of.result.model_copy(update={"digest": "0" * 64}), of.spec, of.run_dir)
    decisions = refused(decide_all(recipe(), other))
    assert len(decisions) == 4 and all(
        "the result is of another spec" in decision.reason for decision in decisions
    )


def test_changed_training_data_are_not_the_gates_matter(subject, recipe):
    of = subject("reward", GOOD, **SURE)
    (of.run_dir / "comparisons_train").write_text("other bytes")
    assert refused(decide_all(recipe(), of)) == []


def test_a_decision_says_of_which_bytes_code_and_time_it_is(subject):
    of = subject("evaluate", EVALUATED, champion=True)
    decision = decide(evaluated(min_n=1), of)
    assert decision.model_digest == of.spec.inputs["policy"].digest
    assert decision.data_digests == {
        name: of.spec.inputs[name].digest for name in ("prompts_heldout", "demonstrations_heldout")
    }
    assert (decision.code, decision.commit) == ("source", "abc1234")
    assert (
        abs((datetime.now(UTC) - datetime.fromisoformat(decision.decided_at)).total_seconds()) < 5
    )
    assert Decision.model_validate_json(decision.model_dump_json()) == decision


def test_a_given_model_is_the_one_decided_on(subject, recipe):
    of = subject("reward", GOOD, **SURE)
    given = of.spec.inputs["model"]
    spec = of.spec.model_copy(update={"inputs": of.spec.inputs | {"given": given}})
    measured = type(of)(
        of.result.model_copy(update={"outputs": {}, "digest": spec.digest}), spec, of.run_dir
    )
    assert {decision.model_digest for decision in decide_all(recipe(), measured)} == {given.digest}


# severity and overrides


def test_a_failed_warning_is_shown_and_stops_nothing(subject):
    of = subject("reward", {"accuracy": 0.6})
    warning, error = (decide(gate(severity=severity), of) for severity in ("warning", "error"))
    assert (warning.verdict, error.verdict) == ("warning", "refused") and not warning.passed
    assert refused([warning, error]) == [error]
    assert (
        worst_verdict([warning]) == "warning"
        and worst_verdict([warning, error]) == "refused"
        and worst_verdict([]) == ""
    )


def test_override_lets_a_value_pass_visibly_and_no_lower_one(subject, recipe):
    loosened = recipe(
        f'reward.gate.overrides.accuracy={{threshold=0.6, reason="{REASON}", by="ann"}}'
    )
    verdicts = {}
    for accuracy in (0.59, 0.65, 0.75):
        decisions = decide_all(loosened, subject("reward", GOOD | {"accuracy": accuracy}, **SURE))
        verdicts[accuracy] = next(d for d in decisions if d.gate == "accuracy")
    assert [d.verdict for d in verdicts.values()] == ["refused", "overridden", "passed"]
    assert (
        REASON in verdicts[0.65].reason
        and "ann" in verdicts[0.65].reason
        and verdicts[0.75].override is None
    )


def test_no_override_helps_against_missing_evidence(subject):
    generous = gate("at least", 0.7, min_n=100, override=Override(threshold=0.0, reason=REASON))
    for metrics, counts in (
        ({}, {}),
        ({"accuracy": math.nan}, {}),
        ({"accuracy": 0.5}, {"accuracy": 99}),
    ):
        assert decide(generous, subject("reward", metrics, counts=counts)).verdict == "refused"
    assert (
        decide(generous, subject("reward", {"accuracy": 0.5}, counts={"accuracy": 100})).verdict
        == "overridden"
    )


# the recipe's gates


def test_own_thresholds_and_further_gates_are_one_list(subject, recipe):
    further = (
        'gates.tie_break={stage="reward", metric="reward/heldout_margin", bound="more than",'
        " threshold=0.0}"
    )
    both = recipe(further, "reward.gate.min_accuracy=0.6")
    decisions = decide_all(
        both, subject("reward", GOOD | {"accuracy": 0.65, "heldout_margin": -0.1}, **SURE)
    )
    assert {d.gate: d.verdict for d in decisions} == {
        "pairs": "passed",
        "accuracy": "passed",
        "lower_bound": "passed",
        "length_baseline": "passed",
        "tie_break": "refused",
    }
    assert decide_all(both, subject("sft", {"heldout_improvement": 0.1}))[0].gate == "improvement"


def test_policy_that_only_pleases_the_reward_model_is_refused_by_the_independent_scorer(
    subject, recipe
):
    hacked = subject("evaluate", {"independent_gain_lower": -0.307})
    settings = "evaluate.gate.min_independent_gain=0.0", "evaluate.independent_scorer='a:b'"
    decision = next(d for d in decide_all(recipe(*settings), hacked) if d.gate == "independent")
    assert decision.verdict == "refused" and "-0.307" in decision.reason


def test_default_reward_gate_is_seventy_percent_and_needs_better_than_length(subject, recipe):
    good = {
        "accuracy": 0.70,
        "accuracy_lower": 0.65,
        "heldout_pairs": 100.0,
        "accuracy_over_length": 0.01,
    }

    def stops(length: float, metrics: dict) -> list[str]:
        """Return the gates that refuse where the lower end of the gain over length is `length`."""
        interval = {"accuracy_over_length": (length, 0.3)}
        evidence = {"counts": SURE["counts"], "intervals": interval}
        return [
            d.gate for d in refused(decide_all(recipe(), subject("reward", metrics, **evidence)))
        ]

    assert stops(0.001, good) == []
    for worse, name in (
        ({"accuracy": 0.699}, "accuracy"),
        ({"accuracy_lower": 0.59}, "lower_bound"),
        ({"heldout_pairs": 99.0}, "pairs"),
    ):
        assert stops(0.001, good | worse) == [name]
    assert stops(0.0, good) == ["length_baseline"]


def test_a_comparison_on_too_few_items_or_without_an_interval_is_refused(subject, recipe):
    gates = {gate.name: gate for gate in gates_of(recipe(), "sft")}
    few = subject("sft", {"heldout_improvement": 0.5}, counts={"heldout_improvement": 9})
    reason = decide(gates["improvement"], few).reason
    assert "rests on 9 samples; expected at least 10" in reason
    bare = subject("sft", {"heldout_improvement": 0.5}, counts={"heldout_improvement": 50})
    assert "holds no such interval" in decide(gates["improvement"], bare).reason
    for low, passed in ((0.001, True), (-0.001, False)):
        evidence = {"counts": {"heldout_improvement": 50}}
        evidence["intervals"] = {"heldout_improvement": (low, 0.9)}
        of = subject("sft", {"heldout_improvement": 0.5}, **evidence)
        assert decide(gates["improvement"], of).passed is passed


def test_a_record_of_an_earlier_version_still_reads():
    old = {
        "stage": "reward",
        "gate": "accuracy",
        "metric": "reward/accuracy",
        "value": 0.6,
        "n": 400,
        "interval": [0.55, 0.65],
        "bound": "at least",
        "threshold": 0.7,
        "passed": False,
        "reason": "too low",
        "override": None,
    }
    decision = Decision.model_validate(old)
    assert (
        decision.verdict == "refused"
        and decision.rule == "at least 0.7"
        and decision.quantity == "reward/accuracy"
    )

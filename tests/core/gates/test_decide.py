"""Gates at, above and below their threshold, and with missing, damaged or foreign evidence."""

import math
from datetime import UTC, datetime

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rlhf_core.config.gate_rules import Override
from rlhf_core.gates.decide import Decision, Gate, decide, decide_all, refused, worst_verdict

REASON = "labels of a judge, not of people"
BOUNDS = {  # does it hold just below, at, just above the threshold
    "at least": (False, True, True),
    "more than": (False, False, True),
    "at most": (True, True, False),
    "less than": (True, False, False),
}
GOOD = {
    "accuracy": 0.75,
    "accuracy_lower": 0.61,
    "heldout_pairs": 500.0,
    "accuracy_over_length": 0.2,
}
WINS = {"policy_score": [1.0] * 8 + [0.0] * 2, "sft_score": [0.5] * 10}  # 8 of 10, score gain 0.3
CHAMPION = WINS | {
    "champion_score": [0.75] * 6 + [0.25, -0.25, 0.5, 0.0]
}  # 8 won, 1 lost, 1 tie; gain 0.3
EVALUATED = {"win_rate": 0.8, "score_policy": 0.8, "score_sft": 0.5, "score_gain": 0.3}
TEN = {"counts": dict.fromkeys(EVALUATED, 10)}


def gate(bound: str = "at least", threshold: float = 0.7, **rule) -> Gate:
    values = {
        "name": "mine",
        "stage": "reward",
        "metric": "reward/accuracy",
        "bound": bound,
        "threshold": threshold,
    }
    return Gate(**values | rule)


def evaluated(**rule) -> Gate:
    return gate(**{"stage": "evaluate", "metric": "eval/win_rate", "threshold": 0.5} | rule)


# bounds


@pytest.mark.parametrize("bound", BOUNDS)
def test_a_bound_on_the_estimate(subject, bound):
    found = [
        decide(gate(bound), subject("reward", {"accuracy": value})).passed
        for value in (0.69, 0.7, 0.71)
    ]
    assert tuple(found) == BOUNDS[bound]


RULES = {  # rule, and the number that it compares, known by hand or from the formula's own test
    "stored lower": ({"of": "lower"}, 0.55),
    "stored upper": ({"of": "upper"}, 0.95),
    "wilson lower": ({"of": "lower", "method": "wilson"}, 0.4901625),
    "wilson lower 90%": ({"of": "lower", "confidence": 0.9}, 0.5407928),
    "wilson upper 90%": ({"of": "upper", "confidence": 0.9}, 0.9314420),
    "bootstrap lower": ({"of": "lower", "method": "bootstrap"}, 0.5),
    "bootstrap upper": ({"of": "upper", "method": "bootstrap"}, 1.0),
    "sign estimate": ({"method": "sign"}, 0.8),
    "sign lower": ({"method": "sign", "of": "lower"}, 0.4439045),
    "sign upper": ({"method": "sign", "of": "upper"}, 0.9747893),
    "minus": ({"metric": "eval/score_policy", "minus": "eval/score_sft"}, 0.3),
    "minus lower": ({"metric": "eval/score_policy", "minus": "eval/score_sft", "of": "lower"}, 0.0),
    "minus upper": ({"metric": "eval/score_policy", "minus": "eval/score_sft", "of": "upper"}, 0.5),
    "minus sign": (
        {"metric": "eval/score_policy", "minus": "eval/score_sft", "method": "sign", "of": "lower"},
        0.4439045,
    ),
    "versus": ({"metric": "eval/score_policy", "versus": "champion"}, 0.3),
    "versus lower": ({"metric": "eval/score_policy", "versus": "champion", "of": "lower"}, None),
    "versus upper": ({"metric": "eval/score_policy", "versus": "champion", "of": "upper"}, None),
    "versus sign": ({"metric": "eval/score_policy", "versus": "champion", "method": "sign"}, 8 / 9),
    "versus sign lower": (
        {"metric": "eval/score_policy", "versus": "champion", "method": "sign", "of": "lower"},
        0.5175035,
    ),
}


@pytest.mark.parametrize("bound", BOUNDS)
@pytest.mark.parametrize("case", RULES)
def test_every_rule_at_just_below_and_just_above_its_threshold(subject, case, bound):
    rule, by_hand = RULES[case]
    of = subject(
        "evaluate", EVALUATED, CHAMPION, champion=True, intervals={"win_rate": (0.55, 0.95)}, **TEN
    )
    decision = decide(evaluated(bound=bound, threshold=0.6, **rule), of)
    number = (
        decision.value if decision.of == "estimate" else decision.interval[decision.of == "upper"]
    )
    assert by_hand is None or number == pytest.approx(by_hand, abs=1e-6)
    low, high = decision.interval
    assert low <= decision.value + 1e-9 and decision.value <= high + 1e-9

    def passes(threshold: float) -> bool:
        return decide(
            evaluated(bound="at least").model_copy(
                update={**rule, "bound": bound, "threshold": threshold}
            ),
            of,
        ).passed

    found = tuple(
        passes(threshold)
        for threshold in (math.nextafter(number, 9), number, math.nextafter(number, -9))
    )
    assert found == BOUNDS[bound]


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


# closed when in doubt


@pytest.mark.parametrize("bound", BOUNDS)
@pytest.mark.parametrize("value", [None, math.nan, math.inf, -math.inf, 1.2, -0.1])
def test_missing_non_finite_and_impossible_values_are_refused(subject, bound, value):
    decision = decide(gate(bound), subject("reward", {} if value is None else {"accuracy": value}))
    assert (
        decision.verdict == "refused"
        and "reward/accuracy is" in decision.reason
        and "expected a" in decision.reason
    )
    assert decision.value == (value if value in (1.2, -0.1) else None)


@pytest.mark.parametrize(("kl", "verdict"), [(0.0, "passed"), (-0.2, "passed"), (-7.0, "refused")])
def test_a_kl_estimate_far_below_zero_is_refused(subject, kl, verdict):
    budget = gate("at most", 50.0, stage="ppo", metric="ppo/kl_per_response")
    assert decide(budget, subject("ppo", {"kl_per_response": kl})).verdict == verdict


@pytest.mark.parametrize(("n", "verdict"), [(99, "refused"), (100, "passed"), (None, "refused")])
def test_too_few_samples_are_refused(subject, n, verdict):
    counts = {} if n is None else {"accuracy": n}
    decision = decide(gate(min_n=100), subject("reward", {"accuracy": 0.9}, counts=counts))
    assert decision.verdict == verdict and decision.n == n and decision.value == 0.9
    assert verdict == "passed" or "expected at least 100" in decision.reason


@pytest.mark.parametrize(
    ("rule", "says"),
    [
        (
            {"stage": "ppo", "metric": "ppo/entropy", "of": "lower", "bound": "more than"},
            "ppo/entropy is not computed from items",
        ),
        ({"of": "lower", "confidence": 0.9}, "has no items.parquet"),
        ({"method": "sign"}, "has no items.parquet"),
        ({"versus": "champion", "metric": "eval/score_policy"}, "has no items.parquet"),
    ],
)
def test_an_interval_that_cannot_be_computed_is_refused_with_the_reason(subject, rule, says):
    rule = {"stage": "evaluate", "metric": "eval/win_rate"} | rule
    stage, metrics = rule["stage"], EVALUATED | {"entropy": 1.0}
    decision = decide(
        gate(threshold=0.1, **rule) if stage == "ppo" else evaluated(**rule),
        subject(stage, metrics, champion=True),
    )
    assert decision.verdict == "refused" and says in decision.reason and decision.interval is None


def test_an_estimate_needs_no_interval_but_records_the_one_that_the_items_give(subject):
    bare = decide(evaluated(), subject("evaluate", EVALUATED, **TEN))
    assert bare.passed and bare.interval is None
    full = decide(evaluated(), subject("evaluate", EVALUATED, WINS, **TEN))
    assert (
        full.interval == pytest.approx((0.4901625, 0.9433178), abs=1e-6) and full.confidence == 0.95
    )
    assert "Wilson" in full.how and "policy_score > sft_score" in full.how


@pytest.mark.parametrize(
    ("items", "says"),
    [
        ({"policy_score": [1.0] * 10}, "no column sft_score"),
        (
            WINS | {"policy_score": [1.0] * 7 + [0.0] * 3},
            "the items give eval/win_rate = 0.7, the result states 0.8",
        ),
        (
            {"policy_score": [1.0] * 4 + [0.0], "sft_score": [0.5] * 5},
            "10 samples by the result and on 5 items",
        ),
        (
            WINS | {"sft_score": [0.5] * 9 + [math.nan]},
            "column sft_score has 1 of 10 values that are no finite number",
        ),
        (WINS | {"sft_score": [0.5] * 9 + [None]}, "column sft_score has 1 of 10"),
        (WINS | {"sft_score": ["high"] * 10}, "cannot be read"),
        ({"policy_score": [], "sft_score": []}, "column policy_score has 0 of 0"),
    ],
)
def test_items_that_do_not_bear_the_result_out_are_refused(subject, items, says):
    decision = decide(
        evaluated(of="lower", confidence=0.9), subject("evaluate", EVALUATED, items, **TEN)
    )
    assert decision.verdict == "refused" and says in decision.reason


def test_a_damaged_items_file_is_refused_and_does_not_crash(subject):
    of = subject("evaluate", EVALUATED, WINS, **TEN)
    (of.run_dir / "items.parquet").write_bytes(b"PAR1 and then nothing")
    decision = decide(evaluated(of="lower", method="wilson"), of)
    assert decision.verdict == "refused" and "items.parquet cannot be read" in decision.reason


def test_an_interval_that_is_none_is_refused(subject):
    for interval in ((0.9, 0.2), (math.nan, 0.9), (0.1, math.inf)):
        assert not decide(
            gate("at least", 0.1),
            subject("reward", {"accuracy": 0.8}, intervals={"accuracy": interval}),
        ).passed


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
    assert not decide(
        against, subject("evaluate", EVALUATED, CHAMPION, champion=True)
    ).passed  # the metric is missing


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
    of = subject("reward", GOOD)
    plain = recipe(f'reward.gate.overrides.accuracy={{threshold=0.1, reason="{REASON}"}}')
    assert {decision.verdict for decision in decide_all(plain, of)} == {"passed"}
    (of.run_dir / changed).unlink() if gone else (of.run_dir / changed).write_text("other bytes")
    decisions = decide_all(plain, of)
    assert {decision.verdict for decision in decisions} == {"refused"} and all(
        changed in d.reason for d in decisions
    )


def test_a_result_of_another_spec_is_refused(subject, recipe):
    of = subject("reward", GOOD)
    other = type(of)(of.result.model_copy(update={"digest": "0" * 64}), of.spec, of.run_dir)
    decisions = refused(decide_all(recipe(), other))
    assert len(decisions) == 4 and all(
        "the result is of another spec" in decision.reason for decision in decisions
    )


def test_changed_training_data_are_not_the_gates_matter(subject, recipe):
    of = subject("reward", GOOD)
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
    of = subject("reward", GOOD)
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
        decisions = decide_all(loosened, subject("reward", GOOD | {"accuracy": accuracy}))
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
        both, subject("reward", GOOD | {"accuracy": 0.65, "heldout_margin": -0.1})
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
    decision = next(
        d
        for d in decide_all(recipe("evaluate.gate.min_independent_gain=0.0"), hacked)
        if d.gate == "independent"
    )
    assert decision.verdict == "refused" and "-0.307" in decision.reason


def test_default_reward_gate_is_seventy_percent_and_needs_better_than_length(subject, recipe):
    good = {
        "accuracy": 0.70,
        "accuracy_lower": 0.65,
        "heldout_pairs": 100.0,
        "accuracy_over_length": 0.01,
    }
    assert refused(decide_all(recipe(), subject("reward", good))) == []
    for worse in (
        {"accuracy": 0.699},
        {"accuracy_lower": 0.59},
        {"heldout_pairs": 99.0},
        {"accuracy_over_length": 0.0},
    ):
        assert len(refused(decide_all(recipe(), subject("reward", good | worse)))) == 1


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

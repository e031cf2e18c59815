"""The verdict of a contest: which comparisons decide, at which level, and what it says."""

import pytest
from contests import evaluated, outcomes
from scipy.stats import binomtest

from rlhf_core.config import Contest, Evaluate, EvaluationJudge
from rlhf_core.contest.verdict import Look, contest_items, decide_contest, deciding_metrics
from rlhf_core.digest import digest_file
from rlhf_core.rundir import Artifact

BY_REWARD = "eval/win_rate_vs_champion"
BY_CHAMPIONS = "eval/win_rate_vs_champion_by_its_reward"
BY_SCORER = "eval/independent_win_rate_vs_champion"
BY_JUDGE = "eval/judge_win_rate_vs_champion"
SCORER = {"independent_scorer": "my_scores:score"}
JUDGE = {"judge": EvaluationJudge(function="my_scores:judge")}


@pytest.mark.parametrize(
    ("config", "inputs", "metrics"),
    [
        ({}, {"reward"}, [BY_REWARD]),
        ({}, {"reward", "champion_reward"}, [BY_REWARD, BY_CHAMPIONS]),
        (SCORER, {"reward", "champion_reward"}, [BY_SCORER]),
        ({}, {"reward", "reward_2"}, [BY_SCORER]),
        (SCORER, set(), [BY_SCORER]),
        (JUDGE, {"reward", "champion_reward"}, [BY_JUDGE]),
        (SCORER | JUDGE, {"reward"}, [BY_SCORER, BY_JUDGE]),
    ],
)
def test_an_outside_opinion_decides_and_else_both_reward_models(config, inputs, metrics):
    assert deciding_metrics(Contest(), Evaluate(**config), inputs) == metrics


def test_the_recipe_may_name_the_metric():
    named = Contest(metric="eval/independent_policy")
    assert deciding_metrics(named, Evaluate(**JUDGE), {"reward"}) == ["eval/independent_policy"]


def decided(folder, won, look=1, config=SCORER, **contest):
    subject = evaluated(folder, won)
    return decide_contest(Contest(**contest), Evaluate(**config), subject, Look(look))


@pytest.mark.parametrize(("share", "passed"), [(0.5, False), (0.56, False), (0.58, True)])
def test_a_share_above_one_half_by_chance_wins_nothing(tmp_path, share, passed):
    decision = decided(tmp_path, {"score": outcomes(share)}, config={})
    assert decision.passed is passed and (decision.stage, decision.gate) == ("promote", "champion")
    assert decided(tmp_path, {"score": outcomes(share)}, config={}, of="estimate").passed is (
        share > 0.5
    )


def test_the_record_says_which_metric_decided_with_n_interval_threshold_and_look(tmp_path):
    decision = decided(tmp_path, {"score": outcomes(0.9), "independent": outcomes(0.6)}, look=3)
    assert (decision.metric, decision.value, decision.n) == (BY_SCORER, 0.6, 250)
    assert decision.contest is not None and decision.contest.look == 3
    assert decision.interval is not None and decision.confidence is not None
    exact = binomtest(150, 250).proportion_ci(decision.confidence, method="exact")
    assert decision.interval == pytest.approx((exact.low, exact.high), abs=1e-9)
    assert decision.rule == "lower 99.2456% bound more than 0.5"
    assert "(estimate 0.6, n = 250), required more than 0.5" in decision.reason
    look = "contest 3 on these held-out prompts, 66% of their error budget spent"
    assert decision.reason.endswith(look)


def test_of_two_reward_models_the_worse_one_counts(tmp_path):
    won = {"score": outcomes(0.8), "by_champions_reward": outcomes(0.45)}
    decision = decided(tmp_path, won, config={})
    assert not decision.passed and decision.metric == BY_CHAMPIONS
    assert decision.contest is not None
    assert [each.passed for each in decision.contest.comparisons] == [True, False]
    assert decision.contest.p_value == decision.contest.comparisons[1].p_value
    swapped = {"score": won["by_champions_reward"], "by_champions_reward": won["score"]}
    assert decided(tmp_path, swapped, config={}).metric == BY_REWARD


def test_a_high_score_by_the_reward_model_does_not_help_where_a_scorer_decides(tmp_path):
    won = {"score": outcomes(0.95), "independent": outcomes(0.5)}
    assert not decided(tmp_path, won).passed and decided(tmp_path, won, config={}).passed


def test_ties_are_left_out_and_too_few_decided_prompts_win_nothing(tmp_path):
    ties = [0.5] * 200
    decision = decided(tmp_path, {"score": [*outcomes(0.9, 60), *ties]}, config={})
    assert decision.passed and (decision.value, decision.n) == (0.9, 60)
    few = decided(tmp_path, {"score": [*outcomes(1.0, 40), *ties]}, config={})
    assert not few.passed and "rests on 40 samples; expected at least 50" in few.reason
    none = decided(tmp_path, {"score": ties}, config={})
    assert not none.passed and "all are ties" in none.reason
    assert none.contest is not None and none.contest.p_value is None


def test_each_further_look_needs_more(tmp_path):
    won = {"score": outcomes(0.58)}
    assert decided(tmp_path, won, config={}).passed
    assert not decided(tmp_path, won, look=4, config={}).passed
    late = decided(tmp_path, won, look=9, config={})
    assert "take other held-out prompts" in late.reason


def test_the_smallest_effect_must_be_exceeded(tmp_path):
    won = {"score": outcomes(0.62)}
    assert decided(tmp_path, won, config={}, min_effect=0.05).passed
    wanted = decided(tmp_path, won, config={}, min_effect=0.08)
    assert not wanted.passed and wanted.threshold == 0.58


def test_a_comparison_that_is_missing_wins_nothing(tmp_path):
    decision = decided(tmp_path, {"score": outcomes(0.9)})
    assert not decision.passed and decision.value is None and BY_SCORER in decision.reason


def test_a_contest_by_a_benchmark_is_counted_by_the_benchmarks_files(tmp_path):
    spec = evaluated(tmp_path, {"score": outcomes(0.6)}).spec
    asked = {"benchmark_t": Artifact(path=tmp_path, digest="of the task's files")}
    spec = spec.model_copy(update={"inputs": spec.inputs | asked})
    named = Contest(metric="eval/benchmark/t/acc_win_rate_vs_champion")
    assert contest_items(named, spec) == asked["benchmark_t"]
    assert contest_items(Contest(), spec) == spec.inputs["prompts_heldout"]


def test_the_evidence_holds_the_rule_and_the_digest_of_the_items(tmp_path):
    won = {"score": outcomes(0.6), "by_champions_reward": outcomes(0.6)}
    both = decided(tmp_path, won, config={}, min_effect=0.05, confidence=0.99).contest
    assert both is not None and both.rule == (
        "lower 99% bound of eval/win_rate_vs_champion and"
        " eval/win_rate_vs_champion_by_its_reward more than 0.55, n at least 50"
    )
    assert both.items == digest_file(tmp_path / "items.parquet")
    estimate = decided(tmp_path, won, config={}, of="estimate", confidence=0.99).contest
    assert estimate is not None and estimate.rule.startswith("estimate of eval/win_rate")
    assert estimate.identity != both.identity and estimate.items == both.items

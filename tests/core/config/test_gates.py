"""A gate that cannot be decided, or never pass, is refused when the recipe is read.

The domains of all metrics are sound.
"""

import math

import pytest

from rlhf_core.errors import ConfigError
from rlhf_core.evidence.item_metrics import (
    ITEM_METRICS,
    columns_of,
    detector_of,
    has_champion_value,
    is_against_champion,
)
from rlhf_core.gates.decide import gates_of
from rlhf_core.metrics import METRICS, domain
from rlhf_core.stage_catalogue import gated_stages

REASON = "labels of a judge, not of people"
DEFAULTS = {
    "sft": {"improvement": ("sft/heldout_improvement", "more than", 0.0)},
    "reward": {
        "pairs": ("reward/heldout_pairs", "at least", 100),
        "accuracy": ("reward/accuracy", "at least", 0.7),
        "lower_bound": ("reward/accuracy_lower", "at least", 0.6),
        "length_baseline": ("reward/accuracy_over_length", "more than", 0.0),
    },
    "ppo": {"kl": ("ppo/kl_per_response", "at most", 50.0)},
    "dpo": {
        "pairs": ("dpo/heldout_pairs", "at least", 100),
        "lower_bound": ("dpo/accuracy_lower", "more than", 0.5),
    },
    "kto": {
        "rows": ("kto/heldout_rows", "at least", 100),
        "labels": ("kto/heldout_rarer", "at least", 20),
        "lower_bound": ("kto/auc_lower", "more than", 0.5),
    },
    "evaluate": {
        "prompts": ("eval/prompts", "at least", 50),
        "win_rate": ("eval/win_rate_lower", "more than", 0.5),
        "kl": ("eval/kl_per_response", "at most", 50.0),
        "length": ("eval/length_ratio", "at most", 2.0),
        "min_length": ("eval/length_ratio", "at least", 0.5),
        "length_correlation": ("eval/length_correlation", "at most", 0.8),
        "length_correlation_sft": ("eval/length_correlation_sft", "at most", 0.8),
        "distinct_2": ("eval/distinct_2_cut_ratio", "at least", 0.5),
        "first_word": ("eval/first_word_rise", "at most", 0.5),
        "prompt": ("eval/prompt_retrieval_loss_lower", "at most", 0.5),
        "repetition": ("eval/repetition_increase", "at most", 0.1),
        "alignment_tax": ("eval/alignment_tax", "at most", 1.0),
    },
}

COMPARISONS = {  # judged by an end of the paired interval; others compare with an end by name
    ("sft", "improvement"): "lower",
    ("reward", "length_baseline"): "lower",
    ("evaluate", "length"): "upper",
    ("evaluate", "min_length"): "lower",
    ("evaluate", "repetition"): "upper",
    ("evaluate", "alignment_tax"): "upper",
}


def own(name: str = "mine", **rule) -> str:
    values = {
        "stage": "evaluate",
        "metric": "eval/win_rate",
        "bound": "more than",
        "threshold": 0.5,
    } | rule
    texts = {
        key: f'"{value}"' if isinstance(value, str) else value for key, value in values.items()
    }
    return f"gates.{name}={{{', '.join(f'{key}={text}' for key, text in texts.items())}}}"


@pytest.mark.parametrize("stage", gated_stages())
def test_documented_thresholds_are_the_default_gates(stage, recipe):
    gates = gates_of(recipe(), stage)
    found = {gate.name: (gate.metric, gate.bound, gate.threshold) for gate in gates}
    assert found.items() >= DEFAULTS[stage].items()
    for gate in gates:
        of = COMPARISONS.get((stage, gate.name), "estimate")
        assert (gate.of, gate.min_n) == (of, 1 if of == "estimate" else 10)
        assert (gate.method, gate.severity, gate.override) == ("auto", "error", None)


def test_stages_without_a_gate_have_none(recipe):
    assert gates_of(recipe(), "prepare") == gates_of(recipe(), "validate") == []


def test_a_gate_of_ones_own_is_read_from_the_recipe_with_its_override(recipe):
    setting = own(
        of="lower",
        minus="eval/no_eos_sft",
        min_n=50,
        confidence=0.9,
        method="bootstrap",
        severity="warning",
    )
    override = f'gates.mine.override={{threshold=0.4, reason="{REASON}", by="ann"}}'
    gate = gates_of(recipe(setting, override), "evaluate")[-1]
    assert (gate.name, gate.of, gate.minus, gate.min_n, gate.confidence) == (
        "mine",
        "lower",
        "eval/no_eos_sft",
        50,
        0.9,
    )
    assert (gate.method, gate.severity, gate.override.by) == ("bootstrap", "warning", "ann")
    # no gate of this stage
    assert gates_of(recipe(setting), "reward")[-1].name == "length_baseline"


def test_gates_stand_in_a_toml_file(recipe, tmp_path):
    with (tmp_path / "plain.toml").open("a") as file:
        file.write(
            '[gates.tax]\nstage = "evaluate"\nmetric = "eval/alignment_tax"\nbound = "less'
            ' than"\nthreshold = 0.2\n'
        )
    assert recipe().gates["tax"].threshold == 0.2


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        (
            own(metric="eval/winrate"),
            "no metric 'eval/winrate' of the stage evaluate; did you mean eval/win_rate",
        ),
        (own(metric="reward/accuracy"), "no metric 'reward/accuracy' of the stage evaluate"),
        (own(metric="xyz"), "expected one that begins with eval/"),
        (own(minus="eval/win_rat_lower"), "did you mean eval/win_rate_lower"),
        (own("kl"), "kl is a gate that the stage evaluate has already"),
        (own("Big-Name"), "String should match pattern"),
        (own(stage="validate", metric="data/rows"), "gates.mine.stage"),
        (
            own(threshold=1.5),
            "threshold 1.5 is impossible: the value of the gate is between 0 and 1",
        ),
        (own(threshold=1.0), "threshold 1 is impossible"),  # more than 1: never
        (own(bound="less than", threshold=0.0), "threshold 0 is impossible"),
        (own(minus="eval/no_eos_sft", threshold=-1.5), "between -1 and 1"),
        (own(metric="eval/kl_per_response", bound="at most", threshold=-2.0), "between -1 and inf"),
        (own(method="sign", metric="eval/score_gain", threshold=2.0), "between 0 and 1"),
        (own(threshold=math.nan), "gates.mine.threshold"),
        (own(threshold=math.inf), "gates.mine.threshold"),
        (own(confidence=1.0), "gates.mine.confidence"),
        (own(min_n=0), "gates.mine.min_n"),
        (own(bound="above"), "gates.mine.bound"),
        (
            own(minus="eval/no_eos_sft", versus="champion", metric="eval/no_eos_policy"),
            "minus and versus exclude each other",
        ),
        (
            own(versus="champion", metric="eval/alignment_tax"),
            "not known of the champion's replies; versus takes eval/score_policy",
        ),
        (
            own(versus="champion", metric="eval/kl_per_response"),
            "not known of the champion's replies",
        ),
        (own(versus="champion", metric="eval/score_sft"), "not known of the champion's replies"),
        (
            own(versus="champion", stage="reward", metric="reward/accuracy"),
            "not known of the champion's replies",
        ),
        (
            own(metric="eval/win_rate_lower", of="lower"),
            "an end of an interval already; expected metric = 'eval/win_rate'",
        ),
        (own(method="wilson", metric="eval/score_gain"), "method 'wilson' is for a share"),
        (own(method="wilson", minus="eval/no_eos_sft"), "method 'wilson' is for a share"),
        (
            own(method="sign", metric="eval/score_policy"),
            "method 'sign' needs a winner for each item",
        ),
        (
            own(method="sign", metric="eval/length_ratio"),
            "method 'sign' needs a winner for each item",
        ),
        (
            own(metric="eval/alignment_tax", minus="eval/win_rate", of="lower"),
            "eval/alignment_tax is not known item by item",
        ),
        (
            own(stage="sft", metric="sft/loss", bound="at most"),
            "sft/loss is logged at the steps of the stage sft alone",
        ),
        (
            own(stage="ppo", metric="ppo/policy_clip_fraction", bound="at most"),
            "is logged at the steps of the stage ppo alone",
        ),
        (
            own(stage="ppo", metric="ppo/kl_per_response", bound="at most", of="upper"),
            "ppo/kl_per_response has no interval: no stage records one",
        ),
        (own(metric="eval/distinct_2_ratio", of="lower"), "eval/distinct_2_ratio has no interval"),
        (
            own(metric="eval/alignment_tax", bound="at most", of="upper", confidence=0.9),
            "the 95% interval alone that its stage records; expected method = 'auto' and conf",
        ),
        (
            own(metric="eval/alignment_tax", bound="at most", method="bootstrap"),
            "expected method = 'auto'",
        ),
        (own(min_n=300), "gates.mine needs min_n 300 items of eval/win_rate, and evaluate.max_pr"),
        (
            own(stage="sft", metric="sft/heldout_loss", bound="at most", min_n=513),
            "sft.max_heldout 512 allows no more",
        ),
        (
            own(stage="ppo", metric="ppo/kl_per_response", bound="at most", min_n=10**6),
            "last steps =",
        ),
        (own(metric="eval/judge_win_rate"), "is not measured: set evaluate.judge"),
        (own(metric="eval/independent_gain"), "set evaluate.independent_scorer"),
        (own(metric="eval/win_rate_vs_best_of_n"), "set evaluate.best_of_n"),
        (
            own(stage="reward", metric="reward/accuracy_member_2"),
            "is not measured: reward.ensemble is 1",
        ),
        (own(stage="ppo", metric="ppo/onpolicy_accuracy"), "set ppo.reward_check"),
        (own(stage="ppo", metric="ppo/eval_score"), "set ppo.evaluation"),
        ("evaluate.gate.min_independent_gain=0.0", "evaluate.gate (independent) is about"),
        ("evaluate.gate.max_reward_disagreement=1.0", "evaluate.gate (disagreement) is about"),
        ("sft.max_heldout=9", "sft.gate (improvement) needs min_n 10"),
        (
            "evaluate={benchmarks={tasks=['t/mine.yaml'], max_items=50},"
            " gate={benchmarks={mine={min_n=51}}}}",
            "evaluate.benchmarks.max_items 50 allows no more",
        ),
        (
            own(stage="reward", metric="reward/subset/safety/accuracy", method="sign"),
            "expected method = 'auto'",
        ),
        (own(stage="reward", metric="reward/subset/a b/accuracy"), "no metric 'reward/subset/a b"),
        (own(oof="lower"), "did you mean of"),
        ("gates.mine.threshold=0.5", "gates.mine.metric"),
        (
            f'reward.gate.overrides.acuracy={{threshold=0.6, reason="{REASON}"}}',
            "overrides has ['acuracy']",
        ),
        (
            f'reward.gate.overrides.accuracy={{threshold=1.6, reason="{REASON}"}}',
            "reward.gate: override.threshold 1.6 is impossible",
        ),
        ("evaluate.gate.min_win_rate_lower=1.0", "evaluate.gate: threshold 1 is impossible"),
        ("evaluate.gate.max_length_ratio=0.4", "set min_length_ratio to at most 0.4"),
        ("sft.gate.min_improvement=nan", "sft.gate.min_improvement"),
    ],
)
def test_a_gate_that_cannot_work_is_refused_when_the_recipe_is_read(setting, says, recipe):
    with pytest.raises(ConfigError) as refused:
        recipe(setting)
    assert says in str(refused.value) and refused.value.exit_code == 2


def test_every_metric_has_a_domain_that_holds_its_meaning():
    assert all(domain(name)[0] < domain(name)[1] for name in METRICS)
    assert domain("reward/accuracy") == (0, 1) and domain("eval/score_gain") == (
        -math.inf,
        math.inf,
    )
    signed = [
        name
        for name in METRICS
        if name.endswith(("_gain", "_increase", "_improvement", "_over_length", "_tax"))
    ]
    assert len(signed) >= 5 and all(domain(name)[0] < 0 for name in signed)


def test_item_metrics_are_declared_metrics_of_columns_that_stages_write():
    assert set(ITEM_METRICS) <= set(METRICS)
    owners = ("chosen_", "rejected_", "policy_", "sft_", "champion_", "best_of_n_", "judge_vs_")
    assert all(column.startswith(owners) for name in ITEM_METRICS for column in columns_of(name))


def test_what_can_be_compared_with_the_champion():
    assert {name for name in METRICS if has_champion_value(name)} == {
        "eval/score_policy",
        "eval/score_gain",
        "eval/win_rate",
        "eval/length_policy",
        "eval/length_ratio",
        "eval/repetition_policy",
        "eval/repetition_increase",
        "eval/no_eos_policy",
        "eval/independent_policy",
        "eval/independent_gain",
        "eval/win_rate_vs_best_of_n",
    }
    assert {name for name in METRICS if is_against_champion(name)} == {
        "eval/win_rate_vs_champion",
        "eval/win_rate_vs_champion_by_its_reward",
        "eval/independent_win_rate_vs_champion",
        "eval/judge_win_rate_vs_champion",
    }


def test_detectors_metrics_lead_to_their_tables():
    assert (
        detector_of("eval/length_correlation_rank") == "length"
        and detector_of("eval/distinct_2_ratio") == "repetition"
        and detector_of("eval/distinct_2_cut_ratio") == "repetition"
        and detector_of("eval/first_word_rise") == "opening"
        and detector_of("eval/prompt_retrieval_loss_lower") == "prompt"
    )
    assert detector_of("eval/length_ratio") is detector_of("eval/prompts") is None


def test_gates_on_what_the_recipe_measures_when_asked_are_taken(recipe):
    judge = "evaluate.judge={function='a:b', max_pairs=100}"
    recipe(own(metric="eval/judge_win_rate", of="lower", min_n=100), judge)
    recipe(own(metric="eval/alignment_tax", bound="at most", of="upper", min_n=256))
    recipe(own(stage="reward", metric="reward/accuracy_member_2"), "reward.ensemble=2")
    recipe(own(stage="reward", metric="reward/accuracy_member_8"), "model.reward='given'")
    with pytest.raises(ConfigError, match=r"evaluate.judge.max_pairs 100 allows no more"):
        recipe(own(metric="eval/judge_win_rate", of="lower", min_n=101), judge)


def test_a_reward_model_on_feedback_alone_is_judged_by_its_labels(recipe):
    alone = recipe('data.feedback="f"', "data.comparisons=none", "reward.gate.min_auc=0.65")
    found = {
        gate.name: (gate.metric, gate.bound, gate.threshold) for gate in gates_of(alone, "reward")
    }
    assert found == {
        "rows": ("reward/heldout_rows", "at least", 100),
        "labels": ("reward/heldout_rarer", "at least", 20),
        "auc": ("reward/auc", "at least", 0.65),
        "auc_lower_bound": ("reward/auc_lower", "at least", 0.6),
        "auc_length_baseline": ("reward/auc_over_length_lower", "more than", 0.0),
    }
    both = gates_of(recipe('data.feedback="f"'), "reward")
    assert [gate.name for gate in both] == list(DEFAULTS["reward"])


@pytest.mark.parametrize(
    ("settings", "metric", "reason"),
    [
        ([], "reward/auc", "measured on no feedback"),
        (['data.feedback="f"', "data.comparisons=none"], "reward/accuracy", "on no comparisons"),
    ],
)
def test_a_gate_on_rows_that_the_recipe_lacks_is_refused(recipe, settings, metric, reason):
    with pytest.raises(ConfigError, match=reason):
        recipe(*settings, own(stage="reward", metric=metric, bound="at least", threshold=0.6))

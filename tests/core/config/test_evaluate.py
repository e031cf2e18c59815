"""The benchmarks of a recipe and their gates."""

import pytest

from rlhf_core.config import load_recipe
from rlhf_core.errors import ConfigError
from rlhf_core.gates.decide import gates_of

TASKS = 'evaluate.benchmarks.tasks=["hellaswag", "my/tasks/polite.yaml"]'


def test_a_benchmark_has_the_name_of_its_task_file(recipe):
    assert recipe(TASKS).evaluate.benchmarks.names == ["hellaswag", "polite"]
    assert recipe().evaluate.benchmarks.names == []


def test_a_gate_looks_at_the_lower_end_of_the_paired_difference_and_states_its_n(recipe):
    found = recipe(
        TASKS,
        'evaluate.gate.benchmarks.polite={metric="exact_match", max_drop=0.02, min_value=0.9}',
        "evaluate.gate.benchmarks.hellaswag={min_n=500}",
        'evaluate.gate.overrides.benchmark_hellaswag={threshold=-0.2, reason="a demonstration"}',
    )
    gates = {gate.name: gate for gate in gates_of(found, "evaluate")}
    drop, value = gates["benchmark_polite"], gates["benchmark_polite_value"]
    assert drop.metric == "eval/benchmark/polite/exact_match_gain" and drop.threshold == -0.02
    assert (drop.of, drop.bound, drop.min_n) == ("lower", "at least", 100)
    assert value.metric == "eval/benchmark/polite/exact_match_policy" and value.threshold == 0.9
    assert (value.of, value.bound) == ("lower", "at least")
    other = gates["benchmark_hellaswag"]
    assert (other.threshold, other.min_n) == (-0.05, 500) and other.override is not None
    assert "benchmark_hellaswag_value" not in gates


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (["evaluate.gate.benchmarks.polite={}"], "'polite', which evaluate.benchmarks.tasks []"),
        (
            ['evaluate.benchmarks.tasks=["a", "b/a.yaml"]'],
            "a is there 2 times; expected each benchmark once",
        ),
        (['evaluate.benchmarks.tasks=["two words"]'], "'two words' is no name of a benchmark"),
        ([TASKS, 'evaluate.gate.benchmarks.polite={metric="a/b"}'], "polite.metric"),
        (
            ['registry.contest.metric="eval/benchmark/t/acc_win_rate_vs_champion"'],
            "registry.contest.metric is about the benchmark 't', which",
        ),
        (
            [TASKS, 'registry.contest.metric="eval/benchmark/polite/f1_win_rate_vs_champion"'],
            "names no winner between candidate and champion",
        ),
        (
            [
                TASKS,
                'gates.mine={stage="evaluate", metric="eval/benchmark/other/acc_policy",'
                ' bound="at least", threshold=0.5}',
            ],
            "gates.mine is about the benchmark 'other', which",
        ),
        (
            [
                TASKS,
                'gates.mine={stage="evaluate", metric="eval/benchmark/polite/acc_policy",'
                ' minus="eval/benchmark/hellaswag/acc_policy", bound="at least", threshold=0}',
            ],
            "are of different items",
        ),
        (
            [
                TASKS,
                'gates.mine={stage="sft", metric="eval/benchmark/polite/acc_policy",'
                ' bound="at least", threshold=0}',
            ],
            "there is no metric 'eval/benchmark/polite/acc_policy' of the stage sft",
        ),
    ],
)
def test_what_cannot_be_measured_is_refused_when_the_recipe_is_read(settings, says, recipe):
    with pytest.raises(ConfigError) as refused:
        recipe(*settings)
    assert says in str(refused.value)


def test_a_contest_may_name_a_benchmark(recipe):
    metric = "eval/benchmark/polite/exact_match_win_rate_vs_champion"
    found = recipe(TASKS, f'registry.contest.metric="{metric}"')
    assert found.registry.contest.rule(metric, 0.01).method == "sign"


def test_the_quickstart_gates_a_benchmark():
    quickstart = load_recipe("quickstart")
    assert quickstart.evaluate.benchmarks.names == ["quickstart_subject"]
    assert "benchmark_quickstart_subject" in {g.name for g in gates_of(quickstart, "evaluate")}

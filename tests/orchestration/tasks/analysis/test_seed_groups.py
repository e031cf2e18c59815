"""Runs that differ in their seed alone are one group, with intervals that say what they cover."""

import io
from statistics import stdev

import pytest
from rich.console import Console
from synthetic import Story, Synthetic

from flows.report.comparison import comparison_page
from flows.report.terminal import comparison_lines
from tasks.analysis.comparison import compare
from tasks.analysis.run_evidence import from_record
from tasks.analysis.seed_groups import SeedRow
from tasks.records.workspace import Workspace

LIFTS = {1: 0.5, 2: 0.9, 3: 0.7}  # by seed


def story(name: str, seed: int, more: float = 0.0, **settings) -> Story:
    """Return the description of a run; every seed has a reward model of its own."""
    return Story(
        f"{name}-{seed}",
        lift=LIFTS[seed] + more,
        seed=seed,
        policy=f"policy-{name}-{seed}",
        reward=f"reward-{seed}",
        settings=settings,
    )


@pytest.fixture(scope="module")
def two_groups(tmp_path_factory):
    """Compare three seeds with a low and three with a high learning rate, worth 0.4 more or so."""
    home = tmp_path_factory.mktemp("home")
    synthetic = Synthetic(Workspace(home), home)
    low = [story("low", seed) for seed in LIFTS]
    high = [story("high", seed, 0.3 + 0.05 * seed, ppo={"policy_lr": 1e-4}) for seed in LIFTS]
    stories = [low[0], high[2], low[2], high[0], low[1], high[1]]
    return compare([from_record(synthetic.write(one)) for one in stories])


def row_of(comparison, metric: str) -> SeedRow:
    return next(row for row in comparison.seed_metrics if row.metric == metric)


def test_runs_that_differ_in_the_seed_alone_are_one_group(two_groups):
    assert [(group.name, group.seeds) for group in two_groups.seed_groups] == [
        ("low-1 (3 seeds)", [1, 2, 3]),
        ("high-1 (3 seeds)", [1, 2, 3]),
    ]
    assert any("differ in the seed alone and are one group" in note for note in two_groups.cautions)


def test_a_group_has_mean_deviation_and_an_interval_that_says_what_it_covers(two_groups):
    first, _ = row_of(two_groups, "eval/length_policy").spreads
    assert (first.mean, first.sd, first.seeds) == (pytest.approx(21.97, abs=0.05), 0.0, 3)
    score, _ = row_of(two_groups, "eval/independent_policy").spreads
    assert score.covers == "seeds and items" and score.seeds == 3
    values = [
        run.metrics["eval/independent_policy"].value for run in two_groups.seed_groups[0].runs
    ]
    assert score.mean == pytest.approx(sum(values) / 3)
    assert score.sd == pytest.approx(stdev(values))
    assert score.low < score.mean < score.high
    # no items behind a loss: seeds alone
    proxy, _ = row_of(two_groups, "ppo/score_mean").spreads
    assert proxy.covers == "seeds" and proxy.mean == pytest.approx(0.7)
    assert (proxy.low, proxy.high) == pytest.approx((0.7 - 0.4968, 0.7 + 0.4968), abs=1e-3)


def test_groups_are_compared_by_seed_and_item_and_paired_by_seed(two_groups):
    (found,) = row_of(two_groups, "eval/score_policy").against
    assert found.verdict == "significant" and found.better
    assert found.covers == "seeds and items"
    assert found.method == "t interval over 3 seeds, paired, and 64 items"
    assert found.difference == pytest.approx(0.4) and found.low < 0.4 < found.high
    assert found.p_adjusted >= found.p_value
    # a difference between 0.35, 0.4 and 0.45: t = 0.4 / (0.05 / sqrt(3)), by hand
    (proxy,) = row_of(two_groups, "ppo/score_mean").against
    assert proxy.covers == "seeds" and proxy.p_value == pytest.approx(0.005168, abs=1e-6)


def test_scores_by_different_reward_models_are_compared_within_a_seed_only(synthetic):
    runs = [story("low", 1), story("low", 2), story("high", 1, 0.3, ppo={"policy_lr": 1e-4})]
    runs.append(story("high", 3, 0.3, ppo={"policy_lr": 1e-4}))
    comparison = compare([from_record(synthetic.write(one)) for one in runs])
    (found,) = row_of(comparison, "eval/score_policy").against
    assert found.verdict == "not comparable" and "two different reward models" in found.note
    (length,) = row_of(comparison, "eval/independent_policy").against
    assert length.method == "t interval over 2 and 2 seeds, and 64 items"


def test_one_seed_beside_several_has_no_interval(synthetic):
    runs = [story("low", 1), story("low", 2), story("high", 1, 0.3, ppo={"policy_lr": 1e-4})]
    comparison = compare([from_record(synthetic.write(one)) for one in runs])
    (found,) = row_of(comparison, "eval/independent_policy").against
    assert found.verdict == "no interval" and "one seed of high-1" in found.note


def test_a_run_that_may_take_more_is_of_the_same_group(synthetic):
    stories = [story("a", 1), story("b", 2)]
    stories[1].settings = {"limits": {"hours": 40.0}}
    comparison = compare([from_record(synthetic.write(one)) for one in stories])
    assert [group.seeds for group in comparison.seed_groups] == [[1, 2]]


def test_runs_of_other_settings_data_or_code_are_no_group(synthetic):
    stories = [story("a", 1), story("b", 2)]
    stories[1].settings = {"ppo": {"policy_lr": 1e-4}}
    comparison = compare([from_record(synthetic.write(one)) for one in stories])
    assert comparison.seed_groups == [] and comparison.seed_metrics == []
    other = story("c", 2)
    other.comparisons = "comparisons-b"
    runs = [from_record(synthetic.write(one)) for one in (story("a", 1), other)]
    assert compare(runs).seed_groups == []


def test_a_group_with_a_run_that_stopped_early_has_no_mean_of_the_rest(synthetic):
    """A mean over the seeds that were not refused would be that of the lucky ones."""
    early = story("low", 2)
    early.until = "reward"
    runs = [from_record(synthetic.write(one)) for one in (story("low", 1), early)]
    comparison = compare(runs)
    assert [group.seeds for group in comparison.seed_groups] == [[1, 2]]
    assert row_of(comparison, "eval/score_policy").spreads == [None]
    assert row_of(comparison, "reward/accuracy").spreads[0].seeds == 2


def test_the_terminal_and_the_page_show_the_groups(two_groups):
    out = Console(width=250, file=io.StringIO())
    for part in comparison_lines(two_groups, 0):
        out.print(part)
    text = out.file.getvalue()
    assert "Over seeds" in text and "low-1 (3 seeds)" in text and "over seeds and items" in text
    page = comparison_page(two_groups)
    assert "Over seeds" in page and "3 seeds, paired" in page

"""The leaderboard: order, groups over seeds, comparisons with the first row, and their rate."""

import random

import pytest

from rlhf_core.errors import ConfigError
from rlhf_core.statistics.p_values import adjusted, of_interval
from tasks.analysis.board.ranking import LeaderboardRequest, ranked
from tasks.analysis.board.run_rows import RunRow

METRIC = "eval/win_rate"
AGE = iter(range(10**6, 0, -1))  # rows come the latest first


def row(value: float | None, half: float | None = 0.02, metric: str = METRIC, **params: object):
    name = f"tiny-{next(AGE)}"
    flat = {"seed": "1", "ppo.beta": "0.1"} | {
        key.replace("__", "."): str(text) for key, text in params.items()
    }
    metrics = {} if value is None else {metric: value}
    if value is not None and half is not None:
        metrics |= {f"{metric}.low": value - half, f"{metric}.high": value + half}
        metrics[f"{metric}.n"] = 500.0
    return RunRow(name, name, "FINISHED", "1", 0, 1, "tiny", flat, metrics)


def test_runs_are_ranked_by_the_better_side_and_compared_with_the_first():
    rows = [row(0.6), row(None), row(0.7), row(0.5), row(0.69)]
    found = ranked(rows, LeaderboardRequest())
    assert [round(each.found.mean, 2) for each in found.rows] == [0.7, 0.69, 0.6, 0.5]
    assert found.without == 1 and not found.lowest_first
    assert [each.verdict for each in found.rows] == [
        "first",
        "not significant",
        "significantly lower",
        "significantly lower",
    ]
    third = found.rows[2]
    assert third.finding.difference == pytest.approx(-0.1)
    assert third.finding.low == pytest.approx(-0.1 - 0.02 * 2**0.5)
    assert found.references() == [rows[2].run_id, rows[4].run_id]


def test_the_p_values_of_all_rows_are_corrected_together():
    rows = [row(0.7 - 0.005 * place) for place in range(12)]
    found = ranked(rows, LeaderboardRequest())
    half = 0.02 * 2**0.5
    alone = [of_interval(-0.005 * k, -0.005 * k - half, -0.005 * k + half) for k in range(1, 12)]
    assert [each.p_adjusted for each in found.rows[1:]] == pytest.approx(adjusted(alone))
    strict, loose = (
        sum(
            each.verdict.startswith("sig")
            for each in ranked(rows, LeaderboardRequest(fdr=rate)).rows
        )
        for rate in (0.001, 0.2)
    )
    assert strict < sum(p < 0.05 for p in alone) <= loose


def test_of_equal_runs_few_are_called_different():
    rng, half = random.Random(5), 0.02
    rows = [row(0.6 + rng.gauss(0, half / 1.96), half) for _ in range(200)]
    found = ranked(rows, LeaderboardRequest())
    called = sum(each.verdict == "significantly lower" for each in found.rows)
    assert called < 60  # the first is the luckiest of 200; without the correction 90 are called


def test_a_loss_is_ranked_with_the_lowest_first():
    rows = [row(2.0, metric="sft/heldout_loss"), row(1.5, metric="sft/heldout_loss")]
    found = ranked(rows, LeaderboardRequest("sft/heldout_loss"))
    assert found.lowest_first and found.rows[0].found.mean == 1.5
    turned = ranked(rows, LeaderboardRequest("sft/heldout_loss", lowest_first=False))
    assert turned.rows[0].found.mean == 2.0


def test_runs_that_differ_in_the_seed_alone_are_one_row_with_mean_and_spread():
    rows = [
        row(0.6 + 0.01 * seed, seed=seed, ppo__beta=beta)
        for seed in (1, 2, 3)
        for beta in (0.1, 0.5)
    ]
    older = row(0.9, seed=1, ppo__beta=0.1)  # the same recipe and seed again: the latest counts
    found = ranked([*rows, older], LeaderboardRequest(over_seeds=True))
    assert [len(each.runs) for each in found.rows] == [3, 3]
    assert found.rows[0].found.mean == pytest.approx(0.62)
    assert found.rows[0].found.sd == pytest.approx(0.01)
    assert found.rows[0].found.covers == "seeds"
    assert found.rows[0].found.high == pytest.approx(0.62 + 4.303 * 0.01 / 3**0.5, abs=1e-4)
    assert found.rows[1].finding.verdict == "identical"  # paired by seed, no difference
    assert found.rows[1].name.endswith("(3 seeds)")


def test_groups_by_a_key_are_their_best_run_or_the_mean_over_seeds():
    rows = [
        row(0.60, seed=1, ppo__beta=0.1),
        row(0.70, seed=2, ppo__beta=0.1),
        row(0.68, seed=1, ppo__beta=0.5),
        row(0.66, seed=2, ppo__beta=0.5, ppo__steps=9),
    ]
    best = ranked(rows, LeaderboardRequest(keys=("ppo.beta",)))
    assert [(each.values["ppo.beta"], each.found.mean) for each in best.rows] == [
        (0.1, 0.70),
        (0.5, 0.68),
    ]
    means = ranked(rows, LeaderboardRequest(keys=("ppo.beta",), over_seeds=True))
    assert [(each.values["ppo.beta"], round(each.found.mean, 3)) for each in means.rows] == [
        (0.5, 0.67),
        (0.1, 0.65),
    ]
    assert any("other keys differ as well: ppo.steps" in note for note in means.cautions)


def test_values_without_a_common_scale_are_ranked_and_not_compared():
    rows = [row(0.7, reward__lr=1e-5), row(0.5, reward__lr=1e-4)]
    (_, second) = ranked(rows, LeaderboardRequest()).rows
    assert (
        second.verdict == "not comparable" and "two different reward models" in second.finding.note
    )
    (_, second) = ranked([row(0.7, None), row(0.5)], LeaderboardRequest()).rows
    assert second.verdict == "no interval"


@pytest.mark.parametrize(
    ("request_", "says"),
    [
        (LeaderboardRequest("eval/nosuch"), "no run has eval/nosuch"),
        (LeaderboardRequest(keys=("ppo.bet",)), "no run has ppo.bet; .* did you mean ppo.beta"),
        (LeaderboardRequest(fdr=5), "expected a share between 0 and 1"),
    ],
)
def test_what_cannot_be_ranked_is_one_error(request_, says):
    with pytest.raises(ConfigError, match=says):
        ranked([row(0.5)], request_)

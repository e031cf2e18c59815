"""The figures over seeds: the runs in them, mean and spread of utility, proxy reward and KL."""

import itertools
import json

import pytest

from flows.sweeps import learning_curves
from flows.sweeps.grid import make_plan
from tasks.sweeps.figures import Spread, metrics_figure, over_seeds
from tasks.sweeps.learning_curves import learning_figure, summary
from tasks.sweeps.sweep import DEFAULT_METRICS, SweepMetric, SweepRow

BETAS = [0, 0.01, 0.05, 0.1, 0.5, 1.0]


def row(
    values: dict, *, gain: float, low: float | None = None, state: str = "finished", steps: int = 0
) -> SweepRow:
    metrics = {
        "eval/independent_gain": SweepMetric(
            value=gain, low=low, high=None if low is None else 2 * gain - low
        ),
        "eval/independent_sft": SweepMetric(value=1.0),
        "eval/independent_policy": SweepMetric(value=1.0 + gain),
        "eval/score_gain": SweepMetric(value=2 * gain),
        "eval/kl_per_response": SweepMetric(value=4.0),
    }
    return SweepRow(
        label=str(values),
        values=values,
        state=state,
        metrics=metrics,
        curve=[(0.1 * i, i * gain) for i in range(steps)],
    )


def test_mean_and_standard_deviation_over_seeds_stand_at_each_value():
    found = over_seeds(
        [
            (0.1, SweepMetric(value=4.0)),
            (0.0, SweepMetric(value=1.0)),
            (0.1, SweepMetric(value=2.0)),
        ]
    )
    assert found[0] == (0.0, Spread(1.0, None, None))
    assert found[1][1].value == 3.0 and found[1][1].high == pytest.approx(3.0 + 2**0.5)


def test_a_sweep_over_beta_and_seeds_draws_true_utility_proxy_and_kl_with_beta_0_on_the_axis():
    rows = [
        row({"ppo.beta": beta, "seed": seed}, gain=beta + seed)
        for beta in BETAS
        for seed in (1, 2, 3)
    ]
    figure = metrics_figure(rows, ["ppo.beta", "seed"], list(DEFAULT_METRICS))
    panels = {axes.get_title(): axes for axes in figure.axes}
    assert set(panels) == {"eval/score_gain", "eval/kl_per_response", "eval/independent_gain"}
    axes = panels["eval/independent_gain"]
    (line,) = axes.containers  # one for all seeds
    assert line[0].get_xdata().tolist() == BETAS
    assert line[0].get_ydata() == pytest.approx([beta + 2 for beta in BETAS])
    ((_, low), (_, high)) = line[2][0].get_segments()[0]
    assert (low, high) == pytest.approx((1.0, 3.0))
    assert axes.get_xscale() == "symlog" and "mean over seeds" in axes.get_ylabel()
    places = axes.transData.transform([(beta, 0) for beta in BETAS])[:, 0]
    assert min(b - a for a, b in itertools.pairwise(places)) > 10  # pixels: none hides another


def test_without_a_zero_the_axis_stays_as_it_was():
    rows = [row({"ppo.beta": beta}, gain=beta) for beta in BETAS[1:]]
    assert metrics_figure(rows, ["ppo.beta"], list(DEFAULT_METRICS)).axes[0].get_xscale() == "log"
    rows = [row({"ppo.beta": beta}, gain=1.0) for beta in (0, 0.1, 0.2)]
    assert (
        metrics_figure(rows, ["ppo.beta"], list(DEFAULT_METRICS)).axes[0].get_xscale() == "linear"
    )


FOUND = {
    "PPO": [
        row({"seed": 1}, gain=2.0, low=1.5, steps=3),
        row({"seed": 2}, gain=1.0, low=-0.1, steps=2),
    ],
    "DPO": [
        row({"seed": 1}, gain=-0.5, low=-1.0),
        SweepRow(label="seed=2", values={"seed": 2}, state="failed"),
    ],
}


def test_the_summary_counts_what_ended_and_what_rose():
    ppo, dpo = summary(FOUND)
    assert (ppo["seeds"], ppo["evaluated"], ppo["raised"], ppo["raised_significantly"]) == (
        2,
        2,
        2,
        1,
    )
    assert ppo["gain"].value == 1.5 and ppo["gain"].high == pytest.approx(1.5 + 0.5**0.5)
    assert (dpo["seeds"], dpo["evaluated"], dpo["raised"]) == (2, 1, 0) and dpo["gain"].high is None
    assert summary({"PPO": FOUND["DPO"][1:]})[0]["gain"] is None


def test_the_figure_holds_each_seed_the_mean_and_the_steps_of_those_that_have_them(
    tmp_path, capsys
):
    before_after, by_step = learning_figure(FOUND).axes
    seeds = [line for line in before_after.lines if line.get_linewidth() < 1]
    assert [line.get_ydata().tolist() for line in seeds] == [[1.0, 3.0], [1.0, 2.0], [1.0, 0.5]]
    assert [c[0].get_ydata().tolist() for c in before_after.containers] == [[1.0, 2.5], [1.0, 0.5]]
    (line,) = by_step.lines
    assert line.get_label() == "PPO" and line.get_xdata().tolist() == [1, 2, 3]
    # the last step by the one seed that took it
    assert line.get_ydata().tolist() == [0.0, 1.5, 4.0]
    files = learning_curves.write(FOUND, tmp_path)
    assert files[0].stat().st_size > 10_000
    assert json.loads(files[1].read_text())[0]["gain"]["value"] == 1.5
    assert "DPO: true gain -0.5 at 4 nats; raised in 0 of 2 seeds" in capsys.readouterr().out


@pytest.mark.parametrize("name", learning_curves.ALGORITHMS)
def test_every_algorithm_is_a_valid_sweep_over_the_seeds(home, name):
    recipe, settings = learning_curves.ALGORITHMS[name]
    plan = make_plan(recipe, learning_curves._request(settings, 5))
    assert [point.values["seed"] for point in plan.sweep.points] == [
        1,
        2,
        3,
        4,
        5,
    ] and plan.sweep.until == "evaluate"

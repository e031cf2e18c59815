"""Costs: hours of cores and GPUs, and money, by group and since a time."""

from datetime import UTC, datetime

import pytest

from rlhf_core.errors import ConfigError
from tasks.analysis.board.costs import CostRow, costs_by, since_time, total
from tasks.analysis.board.prices import Prices
from tasks.analysis.board.run_rows import RunRow

HOUR, DAY = 3_600_000, 86_400_000
PRICES = Prices(currency="EUR", cpu_hour=0.1, gpu_hour=1.0, gpu={"H200": 4.0})


def row(name: str, recipe: str, day: int, gpus: str = "none", **hours: float) -> RunRow:
    metrics = {f"cost/{key}": value for key, value in hours.items()}
    metrics |= {"cost/sft_seconds": 1800.0}
    params = {"hardware.gpus": gpus, "model.base": f"base-{recipe}"}
    start = day * DAY
    return RunRow(name, name, "FINISHED", "1", start, start + 2 * HOUR, recipe, params, metrics)


ROWS = [
    row("b", "film", 3, "NVIDIA H200, NVIDIA H200", ppo_cpu_hours=1.0, ppo_gpu_hours=2.0),
    row("a", "quick", 2, sft_cpu_hours=1.5, ppo_cpu_hours=0.5),
    row("c", "quick", 1, "NVIDIA A10", ppo_cpu_hours=1.0, ppo_gpu_hours=3.0),
]


def test_runs_are_summed_up_by_recipe_with_the_price_of_their_gpu():
    film, quick = costs_by(ROWS, "recipe", PRICES)
    assert (film.group, film.runs, film.hours, film.cpu_hours, film.gpu_hours) == (
        "film",
        1,
        2.0,
        1.0,
        2.0,
    )
    assert film.money == pytest.approx(0.1 + 2 * 4.0)
    assert (quick.runs, quick.cpu_hours, quick.gpu_hours) == (2, 3.0, 3.0)
    assert quick.money == pytest.approx(0.3 + 3 * 1.0)
    assert total([film, quick]) == CostRow("total", 3, 6.0, 4.0, 5.0, pytest.approx(11.4))


def test_the_hours_of_a_stage_that_did_not_finish_count():
    stopped = row("a", "quick", 2, ppo_cpu_hours=1.0, ppo_hours=0.75)
    (found,) = costs_by([stopped], "stage", None)
    assert (found.group, found.hours) == ("ppo", 0.75)


def test_energy_is_summed_up_where_it_was_measured():
    runs = [
        row("a", "quick", 2, ppo_cpu_hours=1.0, ppo_gpu_kwh=2.0, sft_cpu_hours=1.0, sft_gpu_kwh=1),
        row("b", "quick", 3, ppo_cpu_hours=1.0),
        row("c", "film", 3, ppo_cpu_hours=1.0, ppo_cpu_kwh=0.5),
    ]
    found = {one.group: (one.gpu_kwh, one.cpu_kwh) for one in costs_by(runs, "recipe", None)}
    assert found == {"quick": (3.0, None), "film": (None, 0.5)}
    assert {one.group: one.gpu_kwh for one in costs_by(runs, "stage", None)} == {
        "ppo": 2.0,
        "sft": 1.0,
    }


def test_stages_count_where_they_were_made():
    found = {entry.group: entry for entry in costs_by(ROWS, "stage", None)}
    assert found["ppo"].cpu_hours == 2.5 and found["ppo"].runs == 3
    assert (found["sft"].runs, found["sft"].hours) == (1, 0.5)  # b and c took theirs from a
    assert found["ppo"].money is None


def test_other_groups_and_a_time_to_begin():
    assert [entry.group for entry in costs_by(ROWS, "model.base", None)] == [
        "base-quick",
        "base-film",
    ]
    assert {entry.group for entry in costs_by(ROWS, "month", None)} == {"1970-01"}
    since = datetime(1970, 1, 3, tzinfo=UTC)
    assert [entry.group for entry in costs_by(ROWS, "run", None, since)] == ["b", "a"]
    with pytest.raises(ConfigError, match="no run has model"):
        costs_by(ROWS, "model.bas", None)


def test_a_span_and_a_date_are_times():
    now = datetime(2026, 11, 28, 12, tzinfo=UTC)
    assert since_time("30d", now) == datetime(2026, 10, 29, 12, tzinfo=UTC)
    assert since_time("12h", now) == datetime(2026, 11, 28, tzinfo=UTC)
    assert since_time("2026-11-01") == datetime(2026, 11, 1, tzinfo=UTC)
    with pytest.raises(ConfigError, match="--since 'soon' is no time"):
        since_time("soon")

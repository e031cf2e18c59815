"""Forecasts from the steps so far, with times written by hand."""

import json
import time

import pytest

from tasks.execution.usage import Usage
from tasks.records.forecast import Forecast
from tasks.spending.forecasts import Forecaster


def log(folder, step: int, at: float, steps: int = 20) -> None:
    with (folder / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": step, "steps": steps, "time": at, "metrics": {}}) + "\n")


def test_the_time_left_is_the_median_step_times_the_steps_left(tmp_path):
    """By hand: steps of 10, 10, 90 and 10 s, 15 left, the last one 4 s ago."""
    found, now = Forecaster(tmp_path), time.time() - 4.0
    for step, at in ((1, -120.0), (2, -110.0), (3, -100.0)):
        log(tmp_path, step, now + at)
    assert found.forecast(Usage(80.0)) is None
    log(tmp_path, 4, now - 10.0)
    log(tmp_path, 5, now)
    forecast = found.forecast(Usage(200.0, cpu_hours=0.1, gpu_hours=0.05), (1.0, 2.0), "EUR")
    assert forecast.left == pytest.approx(15 * 10.0 - 4.0, abs=0.5)
    assert forecast.seconds == pytest.approx(200.0 + forecast.left)
    assert forecast.money == pytest.approx(0.2 * forecast.seconds / 200.0)
    assert (forecast.step, forecast.steps, forecast.currency) == (5, 20, "EUR")
    assert forecast.sentence.startswith("after step 5 of 20: ends 20")
    assert forecast.sentence.endswith(f"hours in all, {forecast.money:.2f} EUR")


def test_steps_of_an_earlier_attempt_do_not_count(tmp_path):
    for step in range(1, 11):
        log(tmp_path, step, 1000.0 * step)
    found, now = Forecaster(tmp_path), time.time()
    assert found.forecast(Usage(1.0)) is None
    for step in range(11, 15):
        log(tmp_path, step, now + step - 14)
    assert found.forecast(Usage(1.0)).left == pytest.approx(6.0, abs=0.5)


def test_replies_that_are_generated_for_several_steps_count_for_all_of_them(tmp_path):
    """By hand: blocks of 2 steps, of which the first takes 9 s and the second 1 s."""
    found, now = Forecaster(tmp_path, block=2), time.time()
    for block in range(4):
        log(tmp_path, 2 * block + 1, now - 30.0 + 10 * block - 1.0)
        log(tmp_path, 2 * block + 2, now - 30.0 + 10 * block)
    forecast = found.forecast(Usage(1.0))
    assert forecast.left == pytest.approx(12 * 5.0, abs=0.5) and forecast.money is None


@pytest.mark.parametrize(
    ("money", "currency", "words"),
    [(None, "", ""), (0.0, "EUR", "0.00 EUR"), (0.004, "", "under 0.01"), (1234.5, "", "1,234.50")],
)
def test_a_price_in_words(money, currency, words):
    found = Forecast(step=4, steps=9, made=0, seconds=9.0, left=5.0, money=money, currency=currency)
    assert found.price == words

"""The charts of a report, on hand-made numbers."""

import pytest

from flows.report.charts import Chart, Series, bars, figure, thinned, ticks
from flows.report.plots import histogram


def test_ticks_are_round_and_inside():
    assert ticks(0.0, 1.0) == pytest.approx([0.0, 0.2, 0.4, 0.6, 0.8, 1.0])
    assert ticks(-3.1, 3.9) == pytest.approx([-2.0, 0.0, 2.0]) and ticks(0.0, 23000.0)[1] == 5000.0


def test_a_chart_leaves_out_what_is_not_finite_and_survives_a_constant():
    infinite = [(1.0, 2.0), (2.0, float("nan")), (3.0, 1.7976931348623157e308), (4.0, 2.0)]
    svg = figure(Chart("t", "x", "y", [Series("s", infinite)]))
    assert svg.count("<circle") == 2 and "nan" not in svg and "inf" not in svg
    assert figure(Chart("t", "x", "y", [Series("s", [])])) == "" == bars("t", ["a"], {"s": [None]})


def test_thinning_keeps_both_ends():
    assert thinned(list(range(1000)), 5) == [0, 250, 500, 749, 999] and thinned([1, 2], 5) == [1, 2]


def test_histogram_of_hand_made_margins():
    counts = histogram([0.0, 0.1, 1.0], 0.0, 1.0)
    assert (
        sum(count for _, count in counts) == 3
        and counts[0] == (0.0, 1.0)
        and counts[3][1] == 1
        and counts[-1] == (1.0, 0.0)
    )

"""Filters of runs: names, patterns and conditions on recipe keys and metrics."""

import pytest

from rlhf_core.errors import ConfigError
from tasks.analysis.board.conditions import chosen
from tasks.analysis.board.run_rows import RunRow


def row(name: str, recipe: str, beta: str, win_rate: float | None, status: str = "FINISHED"):
    metrics = {} if win_rate is None else {"eval/win_rate": win_rate}
    return RunRow(name, name, status, "1", 0, 1, recipe, {"ppo.beta": beta}, metrics)


ROWS = [
    row("film-b-1", "film", "0.10", 0.7),
    row("quick-a-2", "quick", "0.1", 0.6),
    row("quick-a-1", "quick", "0.5", None, "FAILED"),
]


@pytest.mark.parametrize(
    ("filters", "names"),
    [
        ([], ["film-b-1", "quick-a-2", "quick-a-1"]),
        (["quick"], ["quick-a-2", "quick-a-1"]),
        (["*-1"], ["film-b-1", "quick-a-1"]),
        (["ppo.beta=0.1"], ["film-b-1", "quick-a-2"]),
        (["ppo.beta>0.1"], ["quick-a-1"]),
        (["quick", "ppo.beta<=0.1"], ["quick-a-2"]),
        (["eval/win_rate>=0.65"], ["film-b-1"]),
        (["eval/win_rate!=0.7"], ["quick-a-2", "quick-a-1"]),
        (["status=FAILED"], ["quick-a-1"]),
        (["film", "quick"], []),
    ],
)
def test_a_run_must_meet_every_condition(filters, names):
    assert [found.name for found in chosen(ROWS, filters)] == names


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("ppo.beta>high", "'high' is no number, which > needs"),
        ("ppo.bta=1", "no run has ppo.bta; expected a recipe key or a metric"),
        ("reward/win_rate=1", "did you mean eval/win_rate"),
        ("=1", "is no condition"),
        ("", "is no condition"),
    ],
)
def test_a_condition_that_means_nothing_is_one_error(text, says):
    with pytest.raises(ConfigError, match=says):
        chosen(ROWS, [text])

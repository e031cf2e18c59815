"""The page over the rounds, and the same in the terminal and as Markdown, of hand-made rounds."""

from pathlib import Path

import pytest
from iterations import made_iteration
from rich.console import Console

from flows.iterate.figure import rounds_page
from flows.iterate.result import IterationResult
from flows.iterate.table import markdown, result_lines
from tasks.iterate.iteration import Iteration, IterationRound, RoundLabels
from tasks.sweeps.sweep import SweepMetric


def measured(value: float) -> SweepMetric:
    return SweepMetric(value=value, low=value - 0.25, high=value + 0.25)


@pytest.fixture
def iteration() -> Iteration:
    """Three rounds, the second of which lost the contest, the last refused before evaluation."""

    def ended(number, outcome, refused_by=(), **metrics):
        labels = RoundLabels(
            file=Path("comparisons.jsonl"), pairs=40, comparisons=39, apart=1, votes=120, by="f",
            model_run="run-0",
        )  # fmt: skip
        return IterationRound(
            number=number,
            outcome=outcome,
            reason="<because>",
            refused_by=list(refused_by),
            run=f"run-{number}",
            record_id="r",
            labels=labels if number else None,
            metrics={name.replace("__", "/"): measured(one) for name, one in metrics.items()},
        )

    return made_iteration(
        pairs=40,
        id="0123456789ab",
        name="tiny-iterate-0123456",
        rounds=[
            ended(0, "promoted", eval__independent_gain=1.0, reward__accuracy=0.7),
            ended(
                1,
                "not promoted",
                ["contest"],
                eval__independent_gain=1.5,
                reward__accuracy=0.75,
                reward__accuracy_new=0.5,
                reward__accuracy_new_before=0.45,
            ),
            ended(2, "refused", ["reward.accuracy"], reward__accuracy=0.5),
        ],
    )


def test_the_page_draws_what_the_rounds_have_and_says_who_refused(iteration):
    page = rounds_page(iteration)
    assert "Gain of the policy over the SFT model" in page and "KL of the policy" not in page
    assert page.count("<div class=legend>") == 1  # one line needs none
    assert "reward model, new" in page
    assert "refused by reward.accuracy" in page and "not promoted by contest" in page
    assert "&lt;because&gt;" in page and "<because>" not in page
    # a dot per round and metric, and for the labels; a bar per interval
    assert page.count("<circle") == 2 + 5 + 3
    assert page.count("<polyline") == 1 + 3 + 1 + 7


def test_terminal_and_markdown_have_a_row_per_round(iteration, tmp_path):
    console = Console(width=1000, record=True, file=(tmp_path / "out").open("w"))
    for part in result_lines(IterationResult(iteration, tmp_path, 0), full_links=True):
        console.print(part)
    text = console.export_text()
    rows = [line.split() for line in text.splitlines() if line.strip()[:1].isdigit()]
    assert [row[:2] for row in rows] == [["0", "0"], ["1", "40"], ["2", "80"]]
    assert "1.5 [1.25, 1.75]" in text and "proxy gain" not in text.splitlines()[1]
    assert markdown(iteration).splitlines()[2] == (
        "| 0 | 0 | 1 [0.75, 1.25] | 0.7 [0.45, 0.95] | - | - | promoted | run-0 |"
    )


@pytest.mark.parametrize("width", [100, 200])
def test_a_narrow_terminal_cuts_no_number_outcome_or_run_off(iteration, tmp_path, width):
    with (tmp_path / "out").open("w", encoding="utf-8") as file:
        console = Console(width=width, record=True, file=file)
        for part in result_lines(IterationResult(iteration, tmp_path, 0), full_links=True):
            console.print(part)
    words = "".join(console.export_text().split())
    assert "…" not in words and "promoted" in words and "run-2" in words
    assert words.count("1.75]") == 1 and "new,before" in words


def test_a_chart_without_a_point_is_left_out(iteration):
    empty = iteration.model_copy(update={"rounds": iteration.rounds[2:]})
    page = rounds_page(empty)
    assert "Accuracy on held-out comparisons" in page and "Gain of the policy" not in page

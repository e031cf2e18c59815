"""The workspace keeps the rounds of a loop."""

import pytest
from iterations import made_iteration

from tasks.iterate.iteration import Iteration, IterationRound, load, save
from tasks.records.workspace import Workspace


@pytest.fixture
def iteration() -> Iteration:
    return made_iteration(rounds_wanted=1)


def test_the_rounds_that_ended_are_found_again_with_todays_number_of_rounds(tmp_path, iteration):
    workspace = Workspace(tmp_path)
    assert load(workspace, iteration) == iteration
    ended = IterationRound(number=0, outcome="promoted", run="tiny-1", record_id="r")
    save(workspace, iteration.model_copy(update={"rounds": [ended]}))
    longer = iteration.model_copy(update={"rounds_wanted": 4, "tracking_uri": "sqlite:///b.db"})
    found = load(workspace, longer)
    assert found.rounds == [ended] and (found.rounds_wanted, found.tracking_uri) == (
        4,
        "sqlite:///b.db",
    )


def test_files_of_labels_are_those_of_the_rounds_after_round_0(tmp_path, iteration):
    files = iteration.label_files(Workspace(tmp_path), 2)
    folder = tmp_path / "iterations" / "i1"
    assert files == [folder / f"round-{number}" / "comparisons.jsonl" for number in (1, 2)]
    assert iteration.label_files(Workspace(tmp_path), 0) == []

"""The loop's run in MLflow, from one command to the next."""

from pathlib import Path

from workspaces import client

from tasks.iterate.iteration import Iteration, IterationRound, LabelRequest
from tasks.iterate.tracking import close, forward
from tasks.records.workspace import Workspace


def test_a_loop_that_an_error_has_ended_is_not_running_and_goes_on_in_the_same_run(
    home: Path, tmp_path: Path
):
    """Bug: without a champion the command ended, and MLflow showed its run as running for ever."""
    iteration = Iteration(
        id="i1",
        name="tiny-iterate",
        recipe="tiny",
        registry="tiny",
        request=LabelRequest(by="m:f", sources=("onpolicy",), pick="random", pairs=5),
        rounds_wanted=1,
        tracking_uri=Workspace(home).tracking_uri,
        rounds=[IterationRound(number=0, outcome="refused", run="tiny-1", record_id="r")],
    )
    close(iteration)  # nothing of it is in MLflow yet
    page = tmp_path / "rounds.html"
    page.write_text("")
    shown = forward(Workspace(home), iteration, page, "")
    run_id = shown.run_id
    assert run_id and client(home).get_run(run_id).info.status == "RUNNING"
    close(shown)
    assert client(home).get_run(run_id).info.status == "FAILED"
    assert forward(Workspace(home), shown, page, "").run_id == run_id
    assert client(home).get_run(run_id).info.status == "RUNNING"

"""A snapshot holds what a stage goes on from, and one state of it."""

from pathlib import Path

import pytest
from mirrored_runs import add_checkpoint, content, finished_run, stopped_run

from tasks.execution.stopped_stage import Progress, link_or_copy
from tasks.mirror import snapshot
from tasks.mirror.snapshot import Unsteady, files_of_checkpoint, files_of_finished, taken


def names(paths: list[Path]) -> set[str]:
    return {path.as_posix() for path in paths}


def test_a_checkpoint_is_copied_with_the_records_beside_it_and_without_older_ones(tmp_path):
    run_dir = stopped_run(tmp_path)
    (run_dir / "checkpoints" / "reference.safetensors").write_text("log-probabilities")
    assert names(files_of_checkpoint(run_dir, Progress(0, 4))) == {
        "checkpoints/step-000004/state.safetensors",
        "checkpoints/step-000004/extra.json",
        "checkpoints/reference.safetensors",
        "metrics.jsonl",
        "evaluations.json",
    }


def test_of_an_ensemble_the_member_in_training_is_copied(tmp_path):
    for path in ("member_1/step-000009/s", "member_2/step-000002/s", "member_2/step-000004/s"):
        file = tmp_path / "checkpoints" / path
        file.parent.mkdir(parents=True)
        file.touch()
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").touch()
    found = names(files_of_checkpoint(tmp_path, Progress(1, 4, members=3)))
    assert found == {"checkpoints/member_2/step-000004/s", "model/config.json"}


def test_of_a_finished_stage_everything_is_copied_but_what_served_to_resume(tmp_path):
    run_dir = finished_run(tmp_path)
    add_checkpoint(run_dir, 2)
    (run_dir / "tokens").mkdir()
    (run_dir / "tokens" / "0.arrow").touch()
    files = set(content(run_dir))
    assert names(files_of_finished(run_dir)) == {
        name for name in files if not name.startswith(("checkpoints", "tokens"))
    }


def test_a_snapshot_stays_when_the_stage_removes_the_checkpoint(tmp_path):
    run_dir = stopped_run(tmp_path)
    with taken(run_dir, Progress(0, 4)) as (folder, paths):
        for file in (run_dir / "checkpoints" / "step-000004").iterdir():
            file.unlink()
        state = folder / "checkpoints" / "step-000004" / "state.safetensors"
        assert state.read_text() == "state 4" and len(paths) == 4
    assert not folder.exists()


@pytest.mark.parametrize("changes", [1, 5])
def test_a_directory_that_changes_while_it_is_read_is_read_again(tmp_path, monkeypatch, changes):
    """At most five times."""
    run_dir, left = stopped_run(tmp_path), [changes]
    evaluations = run_dir / "evaluations.json"

    def copy_and_change(source: str, target: str) -> None:
        link_or_copy(source, target)
        if Path(source) == evaluations and left[0]:
            left[0] -= 1
            evaluations.write_text("[1]" * (6 - left[0]))

    monkeypatch.setattr(snapshot, "link_or_copy", copy_and_change)
    if changes == 5:
        with pytest.raises(Unsteady, match="changed at each of 5"), taken(run_dir, Progress(0, 4)):
            pass
    else:
        with taken(run_dir, Progress(0, 4)) as (folder, _):
            assert (folder / "evaluations.json").read_bytes() == evaluations.read_bytes()
    assert left == [0] and not (run_dir / ".mirror").exists()


def test_a_checkpoint_that_has_gone_gives_no_files_of_it(tmp_path):
    found = names(files_of_checkpoint(stopped_run(tmp_path), Progress(0, 6)))
    assert found == {"metrics.jsonl", "evaluations.json"}

"""Find what a stopped stage has done, and copy what it left."""

import os

from rlhf_core.judging.kept_answers import KeptAnswers
from rlhf_core.judging.verdicts import JudgeAnswer
from tasks.execution.stopped_stage import COPIED, Progress, copy_stopped, link_or_copy, progress_of


def test_a_link_replaces_the_file_that_is_there(tmp_path):
    source, target = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    source.write_bytes(b"weights")
    os.link(source, target)
    link_or_copy(str(source), str(target))
    assert os.path.samefile(source, target)


def test_the_newest_complete_checkpoint_tells_how_far_a_stage_came(tmp_path):
    assert progress_of(tmp_path) == (0, 0, 1)
    for name in ("step-000004", "step-000012", ".step-57.tmp", "reference.safetensors"):
        (tmp_path / "checkpoints" / name).mkdir(parents=True)
    assert progress_of(tmp_path) == (0, 12, 1)
    (tmp_path / "result.json").write_text("{}")
    assert progress_of(tmp_path) is None and progress_of(tmp_path / "nowhere") is None


def test_members_of_an_ensemble_count_before_steps(tmp_path):
    for name in ("member_1/step-000009", "member_2/step-000003"):
        (tmp_path / "checkpoints" / name).mkdir(parents=True)
    assert progress_of(tmp_path, 3) == (0, 9, 3)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    assert progress_of(tmp_path, 3) == (1, 3, 3)
    assert progress_of(tmp_path, 3) > (0, 9, 3)


def test_a_copy_keeps_the_answers_that_a_judge_gave_to_both(tmp_path):
    stopped, run_dir = tmp_path / "stopped", tmp_path / "run"
    for folder, key in ((stopped, "theirs"), (run_dir, "own")):
        (folder / "checkpoints" / "step-000004").mkdir(parents=True)
        KeptAnswers(folder).add(key, JudgeAnswer(1.0, key, None))
    copy_stopped(stopped, run_dir, Progress(0, 4), ranks=2)
    kept = KeptAnswers(run_dir)
    assert [kept.get(key).reason for key in ("own", "theirs")] == ["own", "theirs"]
    assert KeptAnswers(stopped).get("own") is None
    assert not (run_dir / COPIED).exists()

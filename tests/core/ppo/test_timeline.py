"""The record of spans: from several threads, after a kill, and without a folder."""

import json
import threading

import pytest

from rlhf_core.ppo.timeline import TIMELINE, Timeline


def test_spans_of_several_threads_and_of_a_failed_block_are_whole_lines_within_each_other(tmp_path):
    (tmp_path / TIMELINE).write_text('{"name": "old", "start": 1.0}\n{"name": "cut o')
    timeline = Timeline(tmp_path)

    def generate() -> None:
        with timeline.span("generate", 2, "sampler"):
            pass

    with pytest.raises(ValueError), timeline.span("step", 1):
        threads = [threading.Thread(target=generate) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        with timeline.span("sync", 1, "learner", "sampler"):
            pass
        raise ValueError
    old, *found = [json.loads(line) for line in (tmp_path / TIMELINE).read_text().splitlines()]
    assert old["name"] == "old" and len(found) == 4 + 2 + 1
    *inner, step = found
    assert step["name"] == "step" and {one["track"] for one in inner} == {"learner", "sampler"}
    assert all(step["start"] <= one["start"] <= one["end"] <= step["end"] for one in inner)


def test_without_a_folder_and_on_other_ranks_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RANK", "1")
    for timeline in (Timeline(), Timeline(tmp_path)):
        with timeline.span("step", 1):
            pass
    assert not list(tmp_path.iterdir())

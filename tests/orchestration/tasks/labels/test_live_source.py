"""Kept live replies as a source of pairs, from a real store."""

import json
import time
from dataclasses import replace

import pytest
from synthetic import Story

from rlhf_core.data.splits import prompt_record, save_split
from rlhf_core.errors import BadInput
from rlhf_core.labels.candidates import LIVE
from rlhf_core.rundir import Artifact
from tasks.labels.live_source import with_live_replies
from tasks.labels.sources import WantedPairs, _spec, models_of
from tasks.live.replies import store_logged
from tasks.records.workspace import Workspace
from tasks.tracking.client import connect

NOW = int(1000 * time.time()) - 100_000
TALK = [
    {"role": "user", "content": "Is it so?"},
    {"role": "assistant", "content": "Yes."},
    {"role": "user", "content": "And why?"},
]


@pytest.fixture
def with_live(synthetic, home, tmp_path):
    """Store replies to these prompts, and return the models of a run with them, and its file."""
    workspace = Workspace(home)
    heldout = tmp_path / "heldout.jsonl"
    save_split(heldout, [prompt_record([{"role": "user", "content": "held out"}])])
    models = models_of(synthetic.write(Story("made")))
    models = replace(models, heldout=(Artifact.of(heldout),))

    def stored(*asked: tuple[object, str]):
        folder = home / "replies"
        folder.mkdir()
        for number, (prompt, reply) in enumerate(asked):
            messages = prompt if isinstance(prompt, list) else [{"role": "user", "content": prompt}]
            record = {
                "time_ms": NOW + number,
                "duration_ms": 7,
                "request": {"messages": messages},
                "reply": {
                    "id": f"chatcmpl-{number}",
                    "model": "tiny-policy-2",
                    "content": reply,
                    "finish_reason": "stop",
                    "usage": None,
                },
            }
            (folder / f"{number}.json").write_text(json.dumps(record))
        name = models.recipe.registry.name
        store_logged(connect(workspace.tracking_uri), workspace, name, folder)
        (home / "campaign").mkdir()
        found = with_live_replies(models, home / "campaign", 10, workspace)
        file = found.inputs[LIVE].path
        return found, file, [json.loads(row) for row in file.open(encoding="utf-8")]

    return stored


def test_kept_replies_are_rows_once_per_prompt_and_never_of_held_out_prompts(with_live):
    models, file, rows = with_live(
        ("how?", "So."),
        (TALK, "Because."),
        ("held  out", "Yes."),
        ("empty", " "),
        ("how?", "Thus."),
    )
    assert [(row["prompt"], row["reply"]) for row in rows] == [
        ([{"role": "user", "content": "how?"}], "Thus."),
        (TALK, "Because."),
    ]
    assert {row["version"] for row in rows} == {"2"} and file.stat().st_mode & 0o777 == 0o600
    assert models.facts["live"] == {
        "replies": 2,
        "left_out": {
            "the reply is empty": 1,
            "the prompt is held out": 1,
            "a later reply to the same prompt is kept": 1,
        },
    }
    spec = _spec(models, WantedPairs(["live"], 10, "random", 3))
    assert LIVE in spec.inputs and (spec.config.prompts, spec.config.comparisons) == (0, 0)


def test_where_no_reply_is_kept_the_message_says_how_to_keep_some(with_live):
    with pytest.raises(BadInput, match=r"no kept reply of tiny.*rlhf live tiny --log SHARE"):
        with_live()


def test_where_no_reply_may_be_used_the_message_says_why(with_live):
    with pytest.raises(BadInput, match=r"2 kept replies .* 1 because the prompt is held out"):
        with_live(("held out", "Yes."), ("empty", ""))

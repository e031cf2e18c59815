"""An artifact is what this user can read, or a sentence that names the file."""

import json
import os
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from rlhf_core.errors import BadInput
from rlhf_core.rundir import TAIL_BYTES, Artifact, StageSpec, last_line, write_atomically

OTHER = 12345  # a user that owns nothing


@pytest.fixture
def folder():
    """A folder that every user can reach."""
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o755)
        yield Path(name)


@pytest.fixture
def as_other_user():
    """Work as a user who is not root: nothing is unreadable to root."""
    if os.getuid():
        yield
        return
    os.seteuid(OTHER)
    yield
    os.seteuid(0)


@pytest.fixture
def secret(folder) -> Path:
    (folder / "data.jsonl").write_text("{}\n")
    (folder / "data.jsonl").chmod(0)
    return folder / "data.jsonl"


def test_a_file_that_may_not_be_read_is_bad_input(secret, as_other_user):
    with pytest.raises(BadInput, match=r"data\.jsonl may not be read by user .*chmod"):
        Artifact.of(secret)


def test_a_folder_with_a_file_that_may_not_be_read_is_bad_input(secret, as_other_user):
    with pytest.raises(BadInput, match=r"data\.jsonl may not be read"):
        Artifact.of(secret.parent)


def test_a_folder_that_may_not_be_read_has_no_digest_of_nothing(folder, request):
    (folder / "model").mkdir()
    (folder / "model" / "config.json").write_text("{}")
    (folder / "model").chmod(0o111)
    request.getfixturevalue("as_other_user")
    with pytest.raises(BadInput, match="model may not be read"):
        Artifact.of(folder / "model")


def test_what_is_not_there_is_bad_input(folder):
    with pytest.raises(BadInput, match="does not exist"):
        Artifact.of(folder / "absent")


@pytest.mark.parametrize("width", [1, TAIL_BYTES - 20, TAIL_BYTES, 3 * TAIL_BYTES])
def test_the_last_line_is_the_last_complete_one_however_long_it_is(tmp_path, width):
    file = tmp_path / "metrics.jsonl"
    lines = [json.dumps({"step": step, "text": "x" * width}) for step in (1, 2, 3)]
    file.write_text("\n".join(lines) + "\n" + '{"step": 4, "te')
    assert last_line(file) == {"step": 3, "text": "x" * width}


def test_without_a_complete_line_there_is_no_last_line(tmp_path):
    file = tmp_path / "metrics.jsonl"
    assert last_line(file) is None
    file.write_text('{"step": 1')
    assert last_line(file) is None


def test_a_stage_is_known_by_contents_configuration_seed_and_code(folder):
    def digest(place: str, content: str = "{}", **changes: object) -> str:
        (folder / place).mkdir()
        (folder / place / "data.jsonl").write_text(content)
        inputs = {"data": Artifact.of(folder / place / "data.jsonl")}
        values = {"stage": "sft", "seed": 1, "config": {"lr": 1.0}, "code": "c", "inputs": inputs}
        return StageSpec(**values | changes).digest

    first = digest("a")
    assert digest("b") == first  # another place, the same bytes
    others = [
        digest("c", content="{ }"),
        digest("d", seed=2),
        digest("e", config={"lr": 2.0}),
        digest("f", code="d"),
        digest("g", stage="reward"),
    ]
    assert len({first, *others}) == 6


def test_threads_that_write_one_file_leave_it_whole(tmp_path):
    file = tmp_path / "page"
    texts = [str(number) * 100_000 for number in range(4)]
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda text: write_atomically(file, text), texts * 10))
    assert file.read_text() in texts and list(tmp_path.iterdir()) == [file]


def test_a_write_that_fails_leaves_the_old_file_and_no_other(tmp_path):
    file = tmp_path / "page"
    write_atomically(file, "before")
    with pytest.raises(UnicodeEncodeError):
        write_atomically(file, "\ud800")
    assert file.read_text() == "before" and list(tmp_path.iterdir()) == [file]

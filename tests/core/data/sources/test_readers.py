"""A function of the user's gives rows as a file of JSON would, and its faults name it."""

import pytest
from offering_package import install

from rlhf_core.config import Source
from rlhf_core.data.read import read_source
from rlhf_core.errors import BadInput
from rlhf_core.named_functions import READERS

LINES = "question one|answer one\nquestion two|answer two\n"
READER = """
def rows(path):
    for line in path.read_text().splitlines():
        prompt, response = line.split("|")
        yield {"prompt": prompt, "response": response, "score": float("nan"), "ids": (1, 2)}
"""


@pytest.fixture
def read(tmp_path, monkeypatch):
    """Read a file by a reader with this source, offered by a package as `bars`."""

    def rows(source: str, **options):
        offers = {READERS: {"bars": "team_rows:rows"}}
        monkeypatch.delitem(__import__("sys").modules, "team_rows", raising=False)
        install(tmp_path, monkeypatch, "team-rows", offers, source)
        (tmp_path / "pairs.bars").write_text(LINES)
        path = tmp_path / "pairs.bars"
        return read_source("comparisons", Source(path=str(path), reader="bars", **options), path)

    return rows


def test_the_rows_of_a_reader_are_read_as_those_of_a_file(read):
    found = read(READER)
    assert list(found) == [
        (
            n,
            {
                "prompt": f"question {word}",
                "response": f"answer {word}",
                "score": None,
                "ids": [1, 2],
            },
        )
        for n, word in ((1, "one"), (2, "two"))
    ]
    assert found.columns == ("prompt", "response", "score", "ids")


def test_a_limit_takes_the_first_rows(read):
    assert [line for line, _ in read(READER, limit=1)] == [1]


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("def rows(path):\n    yield {}\n    1 / 0", "failed after row 1 of .*ZeroDivisionError"),
        ("def rows(path):\n    return 3", "gave a int for .*expected rows"),
        ("def rows(path):\n    yield ['a']", r"gave row 1 of .* as \['a'\]; expected a dict"),
        (
            "def rows(path):\n    yield {'a': {1}}",
            "gave row 1 of .*a value that JSON does not have",
        ),
        ("def rows(path):\n    return []", "has no rows; expected at least one"),
    ],
)
def test_what_a_reader_does_wrong_is_refused_with_its_name_and_row(read, source, says):
    with pytest.raises(BadInput, match=says):
        read(source)


def test_a_reader_and_a_format_are_refused_together():
    with pytest.raises(ValueError, match="reader 'bars' reads the file, and so does format 'csv'"):
        Source(path="a", reader="bars", format="csv")


def test_a_source_without_a_reader_has_the_json_that_it_had():
    assert "reader" not in Source(path="a").model_dump(mode="json")

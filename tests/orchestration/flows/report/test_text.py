"""Numbers with their nouns."""

from flows.report.text import counted


def test_one_thing_is_counted_in_the_singular():
    assert [counted(n, "run") for n in (0, 1, 2)] == ["0 runs", "1 run", "2 runs"]
    assert counted(2, "run directory", "run directories") == "2 run directories"

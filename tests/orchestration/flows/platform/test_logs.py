"""Logs are cut while their service writes to them, and a few generations stay."""

import os
import subprocess

import pytest

from flows.platform.logs import last_line, rotate


def test_a_log_is_cut_under_a_process_that_goes_on_writing_and_no_line_is_lost(tmp_path):
    log = tmp_path / "mlflow.log"
    loop = "while read -r line; do echo $line; echo done >&2; done"
    with log.open("ab") as output:
        writer = subprocess.Popen(
            ["bash", "-c", loop],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.PIPE,
            text=True,
        )

    def write(number: int) -> None:
        writer.stdin.write(f"line{number:04}\n")
        writer.stdin.flush()
        writer.stderr.readline()

    try:
        for number in range(60):
            write(number)
            if number % 10 == 9:
                assert rotate(log, most_bytes=50, generations=3) == (number > 0)
        write(60)
    finally:
        writer.communicate()
    kept = [*(tmp_path / f"mlflow.log.{number}" for number in (3, 2, 1)), log]
    text = "".join(file.read_text() for file in kept)
    assert text.split() == [f"line{number:04}" for number in range(30, 61)]
    assert sorted(os.listdir(tmp_path)) == sorted(file.name for file in kept)


def test_a_small_or_missing_log_is_left_alone(tmp_path):
    log = tmp_path / "prefect.log"
    assert not rotate(log)
    log.write_text("all is well\n")
    assert not rotate(log, most_bytes=12)
    assert log.read_text() == "all is well\n" and os.listdir(tmp_path) == ["prefect.log"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [("", ""), ("one\ntwo\n\n", "two"), ("x" * 5000 + "\nend", "end"), ("no break", "no break")],
)
def test_the_last_line_of_a_log_is_the_last_one_with_text(tmp_path, text, expected):
    log = tmp_path / "worker.log"
    assert last_line(log) == ""
    log.write_text(text)
    assert last_line(log) == expected

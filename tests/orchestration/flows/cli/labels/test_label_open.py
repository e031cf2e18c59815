"""Bad input of the commands of labelling."""

import pytest


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["open", "latest", "--annotators", ","], "expected the names of those who label"),
        (["open", "latest", "--annotators", "ann", "--from", "dreams"], "--from is 'dreams'"),
        (["open", "latest", "--annotators", "ann", "--name", "A b"], "the campaign's name is"),
        (["open", "latest", "--annotators", "ann"], "names no run"),
        (["status", "week-48"], "no labelling campaign is named 'week-48'"),
        (["reassign", "week-48"], "nothing to change"),
        (["reassign", "week-48", "--disputes"], "no labelling campaign"),
        (["close", "week-48", "--out", "c.jsonl"], "no labelling campaign"),
    ],
)
def test_bad_input_is_one_message_and_exit_2(rlhf, words, says):
    code, _, err = rlhf("label", *words)
    assert code == 2 and says in err and "Traceback" not in err

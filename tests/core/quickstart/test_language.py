"""The words of the quickstart and its strayed replies."""

from random import Random

from rlhf_core.quickstart.language import (
    MAX_PROMPT_WORDS,
    MAX_REPLY_WORDS,
    replace_subject,
    vocabulary,
)
from rlhf_core.quickstart.utility import parse_request

PROMPT = "please tell me how to clean a wooden table ."


def test_every_text_is_within_its_limit_and_made_of_known_words(files):
    known = set(vocabulary())
    for rows in files.values():
        for row in rows:
            for field in row.keys() & {"prompt", "response", "chosen", "rejected"}:
                words = row[field].split()
                assert (
                    1 <= len(words) <= (MAX_PROMPT_WORDS if field == "prompt" else MAX_REPLY_WORDS)
                )
                assert set(words) <= known


def test_a_strayed_reply_is_about_something_else_and_otherwise_the_same():
    request, reply = (
        parse_request(PROMPT),
        "let us clean the table . first wipe the table with soap .",
    )
    rng = Random(1)
    strayed = {replace_subject(rng, request, reply) for _ in range(60)}
    assert reply not in strayed and len(strayed) > 10
    for text in strayed:
        words = set(zip(reply.split(), text.split(), strict=True))
        assert {old for old, new in words if old != new} in ({"table"}, {"clean"})
    assert replace_subject(rng, request, "glad to help .") == "glad to help ."

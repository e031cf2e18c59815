"""Names of annotators in the data."""

import re

from rlhf_core.labels.pseudonyms import pseudonyms


def test_a_pseudonym_needs_the_key_and_is_the_same_in_every_campaign():
    first = pseudonyms(["ann", "bob"], b"key")
    assert pseudonyms(["ann"], b"key")["ann"] == first["ann"]
    assert pseudonyms(["ann"], b"other")["ann"] != first["ann"]
    assert re.fullmatch("annotator-[0-9a-f]{10}", first["ann"])


def test_capitals_and_blanks_make_no_other_person():
    assert pseudonyms(["Ann "], b"k")["Ann "] == pseudonyms(["ann"], b"k")["ann"]

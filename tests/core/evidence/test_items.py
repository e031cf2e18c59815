"""Identity and storage of per-item evidence."""

import hashlib

import pyarrow as pa
import pytest

from rlhf_core.evidence.items import (
    ITEMS,
    item_id,
    last_user_turn,
    prompt_id,
    read_items,
    write_items,
)


def test_item_id_is_the_start_of_sha256_over_the_texts_bytes():
    assert item_id("é", "b") == hashlib.sha256("éb".encode()).hexdigest()[:16]
    assert item_id("abc") == "ba7816bf8f01cfea"  # FIPS 180-2, appendix B.1


def test_the_identity_of_a_prompt_and_of_a_pair_comes_from_roles_and_texts():
    messages = [{"role": "user", "content": "é"}]
    digest = hashlib.sha256('[["user","é"]]'.encode()).hexdigest()
    assert prompt_id(messages) == item_id(digest)
    assert prompt_id(messages, "a", "b") == item_id(digest, "a", "b")
    others = ([{"role": "system", "content": "é"}], [*messages, *messages], [])
    assert len({prompt_id(messages), *map(prompt_id, others)}) == 4


def test_the_prompt_shown_is_the_last_user_turn():
    turns = [{"role": "user", "content": "one"}, {"role": "assistant", "content": "two"}]
    assert (
        last_user_turn(
            [*turns, {"role": "user", "content": "three"}, {"role": "system", "content": "four"}]
        )
        == "three"
    )
    assert last_user_turn([{"role": "system", "content": "only"}]) == "only"


def test_items_come_back_as_written_with_missing_values_kept_apart_from_zero(tmp_path):
    columns = {
        "prompt_id": ["a", "b"],
        "policy_reply": ["x\n", "你好"],
        "policy_score": [0.1, -1e-17],
        "judge_vs_sft": [None, 0.0],
    }
    assert write_items(tmp_path, columns) == {"items": ITEMS}
    assert read_items(tmp_path / ITEMS) == columns


def test_columns_of_unequal_length_are_refused(tmp_path):
    with pytest.raises(pa.ArrowInvalid, match="length"):
        write_items(tmp_path, {"prompt_id": ["a", "b"], "policy_score": [0.1]})

"""Adapters that vLLM gets alone."""

import json
from pathlib import Path

import pytest

from rlhf_core.errors import BadInput
from rlhf_core.sampling.adapters import AdapterFolders, require_adapters, room_for


@pytest.mark.parametrize(("rank", "room"), [(1, 1), (2, 8), (16, 16), (65, 128), (512, 512)])
def test_a_rank_gets_the_next_larger_room(rank, room):
    assert room_for(rank) == room


def test_a_rank_that_vllm_has_no_room_for_is_refused():
    with pytest.raises(BadInput, match="rank 513: vLLM takes adapters of rank 512 at most; lower"):
        room_for(513)


def test_each_adapter_has_a_folder_and_a_number_of_its_own():
    adapters, seen = AdapterFolders(), []
    for _ in range(2):
        with adapters.written(lambda folder: (folder / "file").write_text("x")) as (number, folder):
            assert [one.name for one in folder.iterdir()] == ["file"]
            seen.append((number, folder))
        assert not folder.exists()
    assert [number for number, _ in seen] == [1, 2] and seen[0][1] != seen[1][1]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("architecture", "refused"), [("GPT2LMHeadModel", True), ("Qwen2ForCausalLM", False)]
)
def test_a_model_without_adapters_in_vllm_is_refused(architecture, refused, tmp_path: Path):
    (tmp_path / "config.json").write_text(json.dumps({"architectures": [architecture]}))
    if refused:
        with pytest.raises(BadInput, match="takes no adapters for a GPT2LMHeadModel; set adapter"):
            require_adapters(tmp_path, 8)
    else:
        require_adapters(tmp_path, 8)

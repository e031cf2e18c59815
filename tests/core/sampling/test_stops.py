"""Replies end at the end of turn and at every id of the folder's generation_config."""

import json
import shutil

import pytest
import torch
from transformers import AutoModelForCausalLM

from rlhf_core.config import Sampling
from rlhf_core.sampling.factory import open_sampler
from rlhf_core.sampling.stops import stop_ids_of


@pytest.mark.parametrize(
    ("generation", "config", "stops"),
    [
        ({"eos_token_id": 1}, {"eos_token_id": 2}, {1}),
        ({"eos_token_id": [1, 7]}, {}, {1, 7}),
        ({}, {"eos_token_id": 2}, {2}),
        (None, {"eos_token_id": [2, 3]}, {2, 3}),
        (None, {}, set()),
        (None, {"eos_token_id": 50256, "vocab_size": 62}, set()),
    ],
)
def test_the_ids_are_those_of_generation_config_else_of_config(tmp_path, generation, config, stops):
    (tmp_path / "config.json").write_text(json.dumps(config))
    if generation is not None:
        (tmp_path / "generation_config.json").write_text(json.dumps(generation))
    assert stop_ids_of(tmp_path) == stops


def test_a_reply_ends_at_either_id_and_counts_as_ended(tiny_model, tmp_path):
    """Each of the tiny model's 62 tokens is about as likely as the others."""
    folder = shutil.copytree(tiny_model, tmp_path / "model")
    model = AutoModelForCausalLM.from_pretrained(folder)
    model.generation_config.eos_token_id = [1, 9]
    model.save_pretrained(folder)
    config = Sampling(engine="transformers", max_new_tokens=12, kv_cache_mib=64)
    sampler = open_sampler(folder, config, max_prompt_tokens=2, dtype="float32")
    torch.manual_seed(0)
    samples = sampler.generate([[7, 8]] * 200, seeds=list(range(200)), eos_id=10)
    ends = {1, 9, 10}
    ended = [sample for sample in samples if sample.ended]
    assert {sample.tokens[-1] for sample in ended} == ends
    assert all(not ends & set(sample.tokens[:-1]) for sample in samples)
    assert all(
        len(sample.tokens) == 12 and sample.tokens[-1] not in ends
        for sample in samples
        if not sample.ended
    )

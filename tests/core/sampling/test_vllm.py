"""vLLM in a process of its own: families whose output layer is tied take new weights.

So do they in vLLM's server.
"""

import json
import subprocess
import sys
import textwrap

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, BloomConfig, Gemma2Config, LlamaConfig

from rlhf_core.batching.batch import Sequence, collate
from rlhf_core.modeling.models import inference, load_policy
from rlhf_core.objectives.losses import token_logprobs

EOS = 1
PROMPTS = [[7, 8, 9], [11], [12, 13]]
SIZES = {"vocab_size": 62, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
IDS = {"pad_token_id": 0, "eos_token_id": EOS, "bos_token_id": None}


@pytest.mark.slow
@pytest.mark.parametrize(
    "config",
    [
        Gemma2Config(
            **SIZES,
            **IDS,
            num_key_value_heads=1,
            head_dim=32,
            intermediate_size=128,
            max_position_embeddings=512,
        ),
        BloomConfig(**SIZES, **IDS),
        LlamaConfig(**SIZES, **IDS, intermediate_size=128, tie_word_embeddings=True),
    ],
    ids=["gemma2", "bloom", "llama"],
)
@pytest.mark.parametrize("own_devices", [0, 1], ids=["in process", "server"])
def test_after_new_weights_its_log_probabilities_are_the_new_models(
    config, own_devices, tiny_model, tmp_path
):
    for seed, name in enumerate(("old", "new")):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config)
        with torch.no_grad():
            for weight in model.parameters():
                weight *= 3  # else all tokens are about equally likely
        model.save_pretrained(tmp_path / name)
        AutoTokenizer.from_pretrained(tiny_model).save_pretrained(tmp_path / name)
    code = f"""
        import json
        from pathlib import Path
        from rlhf_core.config import Sampling
        from rlhf_core.modeling.models import load_policy
        from rlhf_core.sampling.factory import open_sampler
        old, new = Path({str(tmp_path / "old")!r}), Path({str(tmp_path / "new")!r})
        config = Sampling(max_new_tokens=8, kv_cache_mib=32, own_devices={own_devices})
        sampler = open_sampler(old, config, max_prompt_tokens=4, dtype="float32")
        sampler.sync(load_policy(new).model.state_dict().items())
        samples = sampler.generate({PROMPTS}, seeds=[1, 2, 3], eos_id={EOS})
        sampler.close()
        print("FOUND", json.dumps([[sample.tokens, sample.logprobs] for sample in samples]))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("FOUND")]
    assert lines, done.stderr[-2000:]
    found = json.loads(lines[0][6:])
    batch = collate([Sequence(p, tokens) for p, (tokens, _) in zip(PROMPTS, found, strict=True)], 0)
    for name, agrees in (("new", True), ("old", False)):
        logits_BRV = inference(load_policy(tmp_path / name), dtype="float32")(batch)
        logprobs_BR = token_logprobs(logits_BRV, batch.response_ids_BR)
        for row, (tokens, logprobs) in enumerate(found):
            expected = logprobs_BR[row, : len(tokens)].tolist()
            assert (logprobs == pytest.approx(expected, abs=1e-3)) == agrees

"""vLLM in a process of its own: families whose output layer is tied take new weights.

So do they in vLLM's server. Adapters come alone where so configured.
"""

import json
import subprocess
import sys
import textwrap

import pytest
import torch
from safetensors.torch import load_file
from stages import finish, section_spec
from transformers import AutoModelForCausalLM, AutoTokenizer, BloomConfig, Gemma2Config, LlamaConfig

from rlhf_core.batching.batch import Sequence, collate
from rlhf_core.config import PPO, LoRA, Sampling
from rlhf_core.modeling.lora import add_adapter
from rlhf_core.modeling.models import inference, load_policy
from rlhf_core.objectives.losses import token_logprobs
from rlhf_core.rundir import read_metrics

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


@pytest.mark.slow
def test_more_prompt_tokens_than_vllm_reads_in_one_step_change_no_reply(tiny_model):
    """150 prompts of 50 tokens: a step reads 4,096, which ends within a prompt."""
    code = f"""
        import json
        from pathlib import Path
        from rlhf_core.config import Sampling
        from rlhf_core.sampling.factory import open_sampler
        config = Sampling(max_new_tokens=4, kv_cache_mib=64)
        sampler = open_sampler(
            Path({str(tiny_model)!r}), config, max_prompt_tokens=50, dtype="float32"
        )
        prompts = [[2 + (row * 7 + i * i) % 50 for i in range(50)] for row in range(150)]
        seeds = list(range(150))
        together = sampler.generate(prompts, seeds=seeds, eos_id={EOS})
        alone = sampler.generate(prompts[75:90], seeds=seeds[75:90], eos_id={EOS})
        sampler.close()
        print("FOUND", json.dumps([[one.tokens for one in some] for some in (together, alone)]))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("FOUND")]
    assert lines, done.stderr[-2000:]
    together, alone = json.loads(lines[0][6:])
    assert len(together) == 150 and together[75:90] == alone


@pytest.mark.slow
@pytest.mark.parametrize("own_devices", [0, 1], ids=["in process", "server"])
def test_an_adapter_that_comes_alone_gives_the_log_probabilities_of_the_model_that_learns(
    own_devices, tiny_model, tmp_path
):
    """Twice, as in two steps; the second adapter replaces the first."""
    code = f"""
        import json
        from functools import partial
        from pathlib import Path
        import torch
        from safetensors.torch import save_file
        from rlhf_core.config import LoRA, Sampling
        from rlhf_core.modeling.lora import add_adapter, save_adapter
        from rlhf_core.modeling.models import load_policy
        from rlhf_core.sampling.factory import open_sampler
        folder = Path({str(tiny_model)!r})
        model = load_policy(folder).model
        add_adapter(model, LoRA(rank=3, alpha=6), seed=1)
        config = Sampling(
            max_new_tokens=8, kv_cache_mib=32, own_devices={own_devices}, adapter_sync=True
        )
        sampler = open_sampler(
            folder, config, max_prompt_tokens=4, dtype="float32", adapter_rank=3
        )
        for step in range(2):
            torch.manual_seed(step)
            for name, weight in model.named_parameters():
                if "lora_B" in name:
                    weight.data.normal_(std=0.5)
            assert sampler.sync_adapter(partial(save_adapter, model)) > 0
            samples = sampler.generate({PROMPTS}, seeds=[1, 2, 3], eos_id={EOS})
            save_file(model.state_dict(), {str(tmp_path)!r} + f"/{{step}}.safetensors")
            print("FOUND", json.dumps([[one.tokens, one.logprobs] for one in samples]))
        sampler.close()
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("FOUND")]
    assert len(lines) == 2, done.stderr[-2000:]
    for step, line in enumerate(lines):
        found = json.loads(line[6:])
        batch = collate([Sequence(p, t) for p, (t, _) in zip(PROMPTS, found, strict=True)], 0)
        for of_step, agrees in ((step, True), (1 - step, False)):
            policy = load_policy(tiny_model)
            add_adapter(policy.model, LoRA(rank=3, alpha=6), seed=1)
            policy.model.load_state_dict(load_file(tmp_path / f"{of_step}.safetensors"))
            logprobs_BR = token_logprobs(
                inference(policy, dtype="float32")(batch), batch.response_ids_BR
            )
            same = [
                logprobs == pytest.approx(logprobs_BR[row, : len(tokens)].tolist(), abs=1e-3)
                for row, (tokens, logprobs) in enumerate(found)
            ]
            assert all(same) if agrees else not all(same)


@pytest.mark.slow
def test_ppo_learns_the_same_from_an_adapter_that_comes_alone(ppo_inputs, tmp_path):
    found = {}
    for alone in (False, True):
        config = PPO(
            steps=3,
            rollout_batch=8,
            minibatches=1,
            policy_lr=0.05,
            micro_batch_tokens=128,
            lora=LoRA(rank=2),
            sampling=Sampling(max_new_tokens=8, kv_cache_mib=32, adapter_sync=alone),
        )
        finish(section_spec("ppo", config, ppo_inputs), tmp_path / f"{alone}")
        lines = read_metrics(tmp_path / f"{alone}" / "metrics.jsonl")
        found[alone] = [line["metrics"] for line in lines]
    assert len(found[True]) == 3
    for merged, adapter in zip(found[False], found[True], strict=True):
        assert adapter["ppo/sampler_logprob_diff_max"] < 1e-4
        names = [name for name in merged if "second" not in name]
        assert {name: adapter[name] for name in names} == pytest.approx(
            {name: merged[name] for name in names}, abs=1e-4, rel=1e-3
        )
    assert found[True][2]["ppo/kl_per_response"] > 1e-3  # it has learnt what the sampler has

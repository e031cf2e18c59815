"""transformers as the sampler: its log-probabilities are the trainer's.

Its replies depend on nothing but their own seed.
"""

import json
import subprocess
import sys
import textwrap

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from rlhf_core.__main__ import run_stage
from rlhf_core.batching.batch import Sequence, collate, device
from rlhf_core.config import PPO, Sampling
from rlhf_core.data.tokenizer import load_tokenizer
from rlhf_core.digest import code_digest
from rlhf_core.errors import BadInput
from rlhf_core.modeling.models import inference, load_policy, load_scalar, save_model
from rlhf_core.objectives.losses import tempered, token_logprobs
from rlhf_core.rundir import Artifact, RunDir, StageSpec, read_metrics
from rlhf_core.sampling import factory
from rlhf_core.sampling.transformers import SeededDraw, TransformersSampler

EOS = 1
PROMPTS = [[7, 8, 9, 10], [11], [12, 13, 14, 15, 16, 17, 18], [9, 9], [20, 21, 22]]
SEEDS = [11, 12, 13, 14, 15]
PLAIN = Sampling(engine="transformers", max_new_tokens=12, kv_cache_mib=8)


def sampler_of(model, **changes) -> TransformersSampler:
    config = PLAIN.model_copy(update=changes)
    return factory.open_sampler(model, config, max_prompt_tokens=7, dtype="float32")


@pytest.fixture(scope="module")
def loud_model(tiny_model, tmp_path_factory):
    """The tiny model with logits twenty times as large, so that low temperature is greedy."""
    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    with torch.no_grad():
        model.lm_head.weight *= 20
    folder = tmp_path_factory.mktemp("loud") / "model"
    for part in (model, AutoTokenizer.from_pretrained(tiny_model)):
        part.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("temperature", [1.0, 0.7, 1.5])
def test_its_log_probabilities_are_the_trainers(loud_model, temperature):
    samples = sampler_of(loud_model, temperature=temperature).generate(
        PROMPTS, seeds=SEEDS, eos_id=EOS
    )
    batch = collate([Sequence(p, s.tokens) for p, s in zip(PROMPTS, samples, strict=True)], 0)
    logits_BRV = tempered(inference(load_policy(loud_model), dtype="float32")(batch), temperature)
    logprobs_BR = token_logprobs(logits_BRV, batch.response_ids_BR)
    for row, sample in enumerate(samples):
        assert sample.logprobs == pytest.approx(
            logprobs_BR[row, : len(sample.tokens)].tolist(), abs=1e-4
        )
        assert min(sample.logprobs) < -0.1  # it samples, it does not take the likeliest


def test_a_reply_depends_on_its_seed_and_not_on_its_neighbours(tiny_model):
    sampler = sampler_of(tiny_model)
    together = sampler.generate(PROMPTS, seeds=SEEDS, eos_id=EOS)
    assert sampler.generate(PROMPTS, seeds=SEEDS, eos_id=EOS) == together
    backwards = sampler.generate(PROMPTS[::-1], seeds=SEEDS[::-1], eos_id=EOS)[::-1]
    alone = [
        sampler.generate([p], seeds=[s], eos_id=EOS)[0] for p, s in zip(PROMPTS, SEEDS, strict=True)
    ]
    sampler._rows = 2  # as a small key-value cache would have it
    in_parts = sampler.generate(PROMPTS, seeds=SEEDS, eos_id=EOS)
    for found in (backwards, alone, in_parts):
        assert [sample.tokens for sample in found] == [sample.tokens for sample in together]
    other = sampler.generate(PROMPTS, seeds=[seed + 100 for seed in SEEDS], eos_id=EOS)
    assert all(one.tokens != another.tokens for one, another in zip(other, together, strict=True))


def test_tokens_are_drawn_as_often_as_the_distribution_says():
    logits_V, count = torch.tensor([2.0, 0.0, -torch.inf, 1.0]), 4000
    draw = SeededDraw(list(range(count)), 1, temperature=0.5)
    drawn = (
        draw(torch.zeros(count, 1, device=device()), logits_V.repeat(count, 1).to(device()))
        .argmax(-1)
        .cpu()
    )
    p_V = (logits_V / 0.5).softmax(-1)
    shares_V = torch.bincount(drawn, minlength=4) / count
    error_V = (p_V * (1 - p_V) / count).sqrt()
    assert ((shares_V - p_V).abs() <= 4 * error_V).all() and shares_V[2] == 0
    assert draw.logprobs[0].cpu().tolist() == pytest.approx(p_V.log()[drawn].tolist())


def test_a_reply_ends_with_end_of_text_or_at_the_limit(tiny_model):
    """The tiny model's 62 tokens are about equally likely.

    So of 200 replies some end early, most do not.
    """
    samples = sampler_of(tiny_model, kv_cache_mib=64).generate(
        [[7, 8]] * 200, seeds=list(range(200)), eos_id=EOS
    )
    ended = [sample for sample in samples if sample.ended]
    assert 10 < len(ended) < 100
    assert all(sample.tokens[-1] == EOS and EOS not in sample.tokens[:-1] for sample in ended)
    assert all(
        len(sample.tokens) == 12 and EOS not in sample.tokens
        for sample in samples
        if not sample.ended
    )
    assert all(len(sample.tokens) == len(sample.logprobs) for sample in samples)


def test_new_weights_come_whole_or_not_at_all(tiny_model, loud_model):
    sampler, loud = sampler_of(tiny_model), load_policy(loud_model).model.state_dict()
    before = sampler.generate(PROMPTS, seeds=SEEDS, eos_id=EOS)
    sampler.sync(loud.items())
    after = sampler.generate(PROMPTS, seeds=SEEDS, eos_id=EOS)
    assert after == sampler_of(loud_model).generate(PROMPTS, seeds=SEEDS, eos_id=EOS) != before
    with pytest.raises(ValueError, match=r"no new weights came for \['lm_head.weight'\]"):
        sampler.sync((name, tensor) for name, tensor in loud.items() if name != "lm_head.weight")
    with pytest.raises(KeyError, match="another"):
        sampler.sync([("another", torch.zeros(1))])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"max_new_tokens": 1018},
            (
                r"longest prompt has 7 tokens and sampling.max_new_tokens is 1018: 1025 together.*"
                r" is 1024"
            ),
        ),
        (
            {"max_new_tokens": 1017, "kv_cache_mib": 0},
            r"kv_cache_mib 0 holds no response of 1024 tokens; expected at least 1",
        ),
    ],
)
def test_what_does_not_fit_is_refused(tiny_model, changes, message):
    with pytest.raises(BadInput, match=message):
        sampler_of(tiny_model, **changes)


def test_without_vllm_nothing_takes_its_place_unasked(tiny_model, monkeypatch):
    monkeypatch.setattr(factory, "find_spec", lambda name: None)
    with pytest.raises(
        BadInput, match=r"'vllm', which is not installed.*ppo\.sampling\.engine.*'transformers'"
    ):
        sampler_of(tiny_model, engine="vllm")


def test_ppo_learns_with_it_and_stays_close_to_the_sampler(tiny_model, tiny_splits, tmp_path):
    save_model(
        load_scalar(tiny_model, new_head=True), load_tokenizer(tiny_model), tmp_path / "reward"
    )
    config = PPO(
        steps=3,
        rollout_batch=8,
        minibatches=2,
        epochs=2,
        policy_lr=1e-3,
        critic_lr=1e-3,
        sampling=PLAIN,
    )
    paths = {
        "policy": tiny_model,
        "reward": tmp_path / "reward",
        "prompts_train": tiny_splits / "prompts_train.jsonl",
    }
    spec = StageSpec(
        stage="ppo",
        seed=1,
        config={"ppo": config.model_dump(mode="json", exclude={"gate"}), "dtype": "float32"},
        inputs={name: Artifact.of(path) for name, path in paths.items()},
        code=code_digest(),
    )
    run_stage(spec, RunDir(tmp_path / "run"))
    steps = [line["metrics"] for line in read_metrics(tmp_path / "run" / "metrics.jsonl")]
    assert len(steps) == 3 and max(step["ppo/sampler_logprob_diff_max"] for step in steps) < 1e-4
    assert steps[-1]["ppo/kl_per_token"] != 0


@pytest.mark.slow
def test_its_greedy_replies_are_those_of_vllm(loud_model):
    """Both engines in one process of their own, at the lowest temperature that vLLM takes.

    One mismatch is a bug.
    """
    code = f"""
        import json
        from pathlib import Path
        from rlhf_core.config import Sampling
        from rlhf_core.sampling.factory import open_sampler
        found = {{}}
        for engine in ("transformers", "vllm"):
            config = Sampling(engine=engine, temperature=0.01, max_new_tokens=12, kv_cache_mib=32)
            folder = Path({str(loud_model)!r})
            sampler = open_sampler(folder, config, max_prompt_tokens=7, dtype="float32")
            samples = sampler.generate({PROMPTS}, seeds={SEEDS}, eos_id={EOS})
            found[engine] = [[sample.tokens, sample.ended] for sample in samples]
            sampler.close()
        print("FOUND", json.dumps(found))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True
    )
    found = json.loads(
        next(line for line in done.stdout.splitlines() if line.startswith("FOUND"))[6:]
    )
    assert found["transformers"] == found["vllm"] and len(found["vllm"]) == 5

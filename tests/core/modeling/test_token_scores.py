"""Token scores by chunks of the output layer are those of whole logits, gradients included."""

import json
import os
import random
import socket
from pathlib import Path

import pytest
import torch
from batches import BATCH
from torch import Tensor
from torch import multiprocessing as mp
from transformers import (
    AutoModelForCausalLM,
    CohereConfig,
    FalconH1Config,
    Gemma2Config,
    GPT2Config,
    GPTNeoXConfig,
    GraniteConfig,
    LlamaConfig,
    LlamaForCausalLM,
    MixtralConfig,
    OPTConfig,
    Qwen3Config,
)

from rlhf_core.batching.batch import Batch, Sequence, collate
from rlhf_core.batching.microbatches import own_microbatches
from rlhf_core.config import SFT, LoRA
from rlhf_core.engine.deepspeed import DeepSpeedEngine
from rlhf_core.engine.router import RouterLoss
from rlhf_core.modeling.lora import add_adapter
from rlhf_core.modeling.models import PolicyModel, inference
from rlhf_core.modeling.token_scores import TokenQuery, TokenScores
from rlhf_core.modeling.trunk import Trunk
from rlhf_core.objectives.losses import masked_sum, token_entropy, token_logprobs

SIZES = {
    "vocab_size": 64,
    "hidden_size": 8,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "pad_token_id": 0,
    "bos_token_id": None,
    "eos_token_id": 1,
}
SMALL = {"vocab_size": 64, "bos_token_id": None, "eos_token_id": 1, "pad_token_id": 0}
FAMILIES = {
    "llama": LlamaConfig(**SIZES),
    "llama, tied": LlamaConfig(**SIZES, tie_word_embeddings=True),
    "qwen 3": Qwen3Config(**SIZES, head_dim=8),
    # logits: tanh(x / 2) * 2
    "gemma 2": Gemma2Config(**SIZES, head_dim=8, final_logit_softcapping=2.0),
    "granite": GraniteConfig(**SIZES, logits_scaling=0.25),
    "cohere": CohereConfig(**SIZES, logit_scale=4.0),
    "gpt-2": GPT2Config(**SMALL, n_embd=8, n_layer=2, n_head=2),
    "gpt-neox": GPTNeoXConfig(**{k: v for k, v in SIZES.items() if k != "num_key_value_heads"}),
    "opt, one width": OPTConfig(
        **SMALL, hidden_size=8, ffn_dim=32, num_hidden_layers=2, num_attention_heads=2,
        word_embed_proj_dim=8,
    ),
    "opt": OPTConfig(
        **SMALL, hidden_size=8, ffn_dim=32, num_hidden_layers=2, num_attention_heads=2,
        word_embed_proj_dim=4,
    ),
    "mixtral": MixtralConfig(**SIZES, num_local_experts=4, experts_implementation="eager"),
    # a scale of the logits that the backbone keeps
    "falcon h1": FalconH1Config(
        **SIZES, mamba_d_ssm=32, mamba_n_heads=4, mamba_d_head=8, mamba_d_state=8,
        mamba_chunk_size=8, lm_head_multiplier=3.0,
    ),
}  # fmt: skip
TWO_TOKENS = 2 * 64 * 4  # bytes: a limit of two tokens per chunk
WHOLE = 2**20
ALL = TokenQuery(temperature=0.7, entropy=True, greedy=True)


def made(family: str) -> PolicyModel:
    torch.manual_seed(3)
    model = AutoModelForCausalLM.from_config(FAMILIES[family]).eval()
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(20)  # far from a uniform distribution
    return PolicyModel(model).double()


def scored(
    policy: PolicyModel, batch: Batch, limit: int, *noise: Tensor
) -> tuple[TokenScores, dict[str, Tensor]]:
    """Return scores at real tokens, and gradients of a sum in which each token has its weight."""
    policy._limit = limit
    policy.zero_grad()
    mask_BR = batch.response_mask_BR
    found = policy(batch, *noise, query=ALL)
    weights_T = torch.linspace(-1, 2, int(mask_BR.sum()), dtype=found.logprobs_BR.dtype)
    assert found.entropy_BR is not None and found.greedy_BR is not None
    loss = (found.logprobs_BR[mask_BR] * weights_T + found.entropy_BR[mask_BR] * weights_T**2).sum()
    loss.backward()
    gradients = {
        name: p.grad.clone() for name, p in policy.named_parameters() if p.grad is not None
    }
    return TokenScores(*(x[mask_BR].detach() for x in found[:3])), gradients


def assert_same(one: tuple, other: tuple, atol: float = 1e-10) -> None:
    for ours, theirs in zip(one[0][:2], other[0][:2], strict=True):
        torch.testing.assert_close(ours, theirs, atol=atol, rtol=atol)
    assert one[0].greedy_BR.equal(other[0].greedy_BR)
    assert one[1].keys() == other[1].keys() and one[1]
    largest = max(float(x.abs().max()) for x in other[1].values())
    for name, gradient in one[1].items():
        torch.testing.assert_close(gradient, other[1][name], atol=atol * largest, rtol=atol)


@pytest.mark.parametrize("family", FAMILIES)
def test_chunks_give_the_scores_and_gradients_of_whole_logits(family):
    policy = made(family)
    whole = scored(policy, BATCH, WHOLE)
    assert_same(scored(policy, BATCH, TWO_TOKENS), whole)


@pytest.mark.parametrize("tied", [True, False])
def test_float32_chunks_differ_by_at_most_a_millionth(tied):
    torch.manual_seed(3)
    policy = PolicyModel(LlamaForCausalLM(LlamaConfig(**SIZES, tie_word_embeddings=tied)))
    assert_same(scored(policy, BATCH, TWO_TOKENS), scored(policy, BATCH, WHOLE), atol=1e-6)


def test_packed_rows_with_noise_have_the_same_scores():
    policy = made("llama")
    noise_BLD = torch.randn(*BATCH.ids_BL.shape, SIZES["hidden_size"], dtype=torch.float64)
    padded = scored(policy, BATCH, WHOLE, noise_BLD)
    policy.packing = True
    whole = scored(policy, BATCH, WHOLE, noise_BLD)
    assert_same(whole, padded)
    assert_same(scored(policy, BATCH, TWO_TOKENS, noise_BLD), whole)


@pytest.mark.parametrize("packing", [False, True])
def test_only_real_response_tokens_reach_the_output_layer_and_few_at_a_time(packing):
    policy, places, batch = made("llama"), [], BATCH
    policy.packing = packing
    handle = policy.model.lm_head.register_forward_hook(
        lambda module, inputs, output: places.append(output.shape[:-1].numel())
    )
    tokens = int(batch.response_mask_BR.sum())
    policy._limit = TWO_TOKENS
    with torch.no_grad():
        policy(batch, query=TokenQuery())
    first, *chunks = places  # the backbone's own pass asks for the last place of each row
    assert first == (1 if packing else len(batch.ids_BL))
    assert max(chunks) <= 2 and sum(chunks) == tokens
    places.clear()
    policy(batch, query=TokenQuery()).logprobs_BR.sum().backward()
    assert places == [first, *chunks, *reversed(chunks)]  # again in the backward pass
    handle.remove()


def test_logits_of_fewer_positions_than_the_width_stay_whole_where_the_output_layer_learns():
    """The gradient of its weight would take more memory than they do."""
    policy, batch = made("llama"), collate([Sequence([5], [6, 7, 8, 1])], 0)
    policy._limit, places = TWO_TOKENS, []
    policy.model.lm_head.register_forward_hook(
        lambda module, inputs, output: places.append(output.shape[:-1].numel())
    )
    policy(batch, query=TokenQuery())
    assert places == [5]
    policy.model.lm_head.requires_grad_(False)
    policy(batch, query=TokenQuery())
    assert places == [5, 1, 2, 2]


@pytest.mark.parametrize("limit", [WHOLE, TWO_TOKENS])
def test_without_gradients_the_scores_are_the_same(limit):
    policy = made("gemma 2")
    with_gradients, _ = scored(policy, BATCH, limit)
    with torch.no_grad():
        found = policy(BATCH, query=ALL)
    mask_BR = BATCH.response_mask_BR
    assert all(x[mask_BR].equal(y) for x, y in zip(found[:3], with_gradients[:3], strict=True))


def test_logits_within_the_limit_stay_whole_to_the_last_bit():
    policy = made("llama").float()
    found = policy(BATCH, query=TokenQuery(entropy=True))  # the limit is 512 MiB
    logits_BRV = policy(BATCH)
    assert found.logprobs_BR.equal(token_logprobs(logits_BRV, BATCH.response_ids_BR))
    assert found.entropy_BR.equal(token_entropy(logits_BRV))
    assert found.greedy_BR is None and found.values_BR1 is None


def test_bfloat16_products_move_scores_and_gradients_by_their_rounding_only():
    policy = made("llama").float()
    exact = scored(policy, BATCH, WHOLE)
    with torch.autocast("cpu", torch.bfloat16):
        whole, chunked = (scored(policy, BATCH, limit) for limit in (WHOLE, TWO_TOKENS))
    torch.testing.assert_close(chunked[0].logprobs_BR, whole[0].logprobs_BR, atol=1e-3, rtol=1e-3)

    def error(found: tuple[TokenScores, dict[str, Tensor]]) -> float:
        pairs = [(found[1][name], gradient) for name, gradient in exact[1].items()]
        return float(sum((x - y).square().sum() for x, y in pairs))

    assert 0 < error(chunked) < 1.2 * error(whole)


@pytest.mark.parametrize("family", ["llama", "opt, one width"])
def test_a_trunk_with_adapter_and_value_head_has_the_same_scores_and_values(family):
    trunk = Trunk(made(family).model, value_head=True)
    add_adapter(trunk.model, LoRA(rank=2), seed=1)
    trunk = trunk.float()
    torch.manual_seed(4)
    with torch.no_grad():
        for parameter in trunk.parameters():
            if parameter.requires_grad:
                parameter.normal_(std=0.1)
    mask_BR = BATCH.response_mask_BR
    found = {}
    for limit in (WHOLE, TWO_TOKENS):
        trunk._limit = limit
        trunk.zero_grad()
        scores = trunk(BATCH, query=ALL)
        (scores.logprobs_BR[mask_BR].sum() + scores.values_BR1.sum()).backward()
        gradients = [p.grad.clone() for p in trunk.parameters() if p.requires_grad]
        with torch.no_grad():
            reference = trunk(BATCH, "reference", query=ALL)
        assert reference.values_BR1 is None
        values = (scores.logprobs_BR, scores.entropy_BR, reference.logprobs_BR)
        found[limit] = [x[mask_BR].detach() for x in values]
        found[limit] += [scores.values_BR1.detach(), *gradients]
    assert not torch.allclose(found[WHOLE][0], found[WHOLE][2], atol=1e-3)
    torch.testing.assert_close(found[TWO_TOKENS], found[WHOLE], atol=1e-5, rtol=1e-4)


def test_a_mixture_of_experts_keeps_the_balancing_loss_of_its_whole_pass():
    policy, losses = made("mixtral"), []
    policy.router = RouterLoss(policy.model, 0.1)
    for limit in (WHOLE, TWO_TOKENS):
        policy._limit = limit
        policy(BATCH, query=TokenQuery())
        losses.append(float(policy.router.take(10, counts=True)))
    assert losses[0] > 0 and losses[1] == pytest.approx(losses[0], rel=1e-12)


# DeepSpeed


def steps(zero_stage: int, limit: int, dtype: str = "float32") -> list[float]:
    """Return gradient norms and log-probabilities of three steps; every rank has its rows."""
    torch.manual_seed(3)
    policy = PolicyModel(LlamaForCausalLM(LlamaConfig(**SIZES, tie_word_embeddings=True)))
    policy._limit = limit
    config = SFT(zero_stage=zero_stage, activation_checkpointing=zero_stage == 3)
    engine, found = DeepSpeedEngine(policy, config, dtype=dtype), []
    rng = random.Random(1)
    sequences = [
        Sequence(rng.choices(range(6, 60), k=3), rng.choices(range(6, 60), k=length))
        for length in (2, 9, 4, 7, 1)
    ]
    tokens = sum(len(sequence.response) for sequence in sequences)
    for _ in range(3):
        for rows, counts in own_microbatches([s.size for s in sequences], 24):
            batch = collate([sequences[row] for row in rows], 0)
            scores = engine(batch, query=TokenQuery(temperature=0.7, entropy=True))
            loss_BR = -scores.logprobs_BR - 0.3 * scores.entropy_BR
            engine.backward(masked_sum(loss_BR, batch.response_mask_BR) / tokens, counts=counts)
        found.append(engine.step(1e-2))
        batch = collate(sequences, 0)
        logprobs_BR = engine.infer(batch, query=TokenQuery()).logprobs_BR
        found += logprobs_BR[batch.response_mask_BR].tolist()
    return found


@pytest.fixture(scope="module")
def plain() -> list[float]:
    return steps(0, WHOLE)


@pytest.mark.parametrize("zero_stage", [0, 1, 2, 3])
def test_steps_by_chunks_are_those_of_whole_logits_at_every_zero_stage(zero_stage, plain):
    assert steps(zero_stage, TWO_TOKENS) == pytest.approx(plain, abs=1e-5)


def _on_two_ranks(rank: int, port: int, report: str) -> None:
    own = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "LOCAL_SIZE": 2, "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in own.items()}, MASTER_ADDR="127.0.0.1")
    found = [steps(zero_stage, TWO_TOKENS) for zero_stage in (0, 1, 2, 3)]
    if rank == 0:
        Path(report).write_text(json.dumps(found))


@pytest.mark.slow
def test_two_ranks_step_as_one_at_every_zero_stage(plain, tmp_path):
    """Ranks have unequal numbers of tokens, so that their own numbers of chunks would differ."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    report = tmp_path / "report"
    mp.spawn(_on_two_ranks, args=(port, str(report)), nprocs=2)
    for found in json.loads(report.read_text()):
        assert found == pytest.approx(plain, abs=1e-5)


@pytest.mark.parametrize("family", [*FAMILIES, "mixtral, grouped"])
def test_matrices_in_bfloat16_change_no_number_that_autocast_gives(family, monkeypatch):
    """Frozen models are kept so; an operation that autocast does not know would differ or fail."""
    grouped = MixtralConfig(**SIZES, num_local_experts=4, experts_implementation="grouped_mm")
    monkeypatch.setitem(FAMILIES, "mixtral, grouped", grouped)
    kept, rounded = (
        inference(made(family).float(), dtype="bfloat16", weights=weights)
        for weights in ("float32", None)
    )
    assert rounded(BATCH).equal(kept(BATCH))


def test_experts_are_rounded_where_the_recipe_asks_for_it():
    kept, rounded = made("mixtral").float(), made("mixtral").float()
    logits = [
        inference(one, dtype="float32", weights=weights)(BATCH)
        for one, weights in ((kept, "float32"), (rounded, "bfloat16"))
    ]
    experts = [p.dtype for p in rounded.parameters() if p.ndim == 3]
    assert experts and {*experts} == {torch.bfloat16}
    gap = (logits[1] - logits[0])[BATCH.response_mask_BR].abs()
    assert 0 < float(gap.mean()) < 0.02 * float(logits[0].std())

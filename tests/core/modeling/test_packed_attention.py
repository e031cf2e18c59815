"""Models that read without padding give the padded batch's numbers and gradients, by family."""

import json
import os
import socket
from pathlib import Path

import pytest
import torch
import torch.multiprocessing as mp
from batches import BATCH
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    BloomConfig,
    CohereConfig,
    FalconConfig,
    FalconH1Config,
    Gemma2Config,
    GPT2Config,
    GPTJConfig,
    GPTNeoConfig,
    GPTNeoXConfig,
    Llama4TextConfig,
    LlamaConfig,
    MistralConfig,
    MixtralConfig,
    OPTConfig,
    Qwen3Config,
)

from rlhf_core.batching.batch import Batch, Sequence, collate
from rlhf_core.batching.microbatches import microbatches, own_microbatches
from rlhf_core.config import SFT
from rlhf_core.engine.base import WrappedModel
from rlhf_core.engine.deepspeed import DeepSpeedEngine
from rlhf_core.errors import BadInput
from rlhf_core.modeling.models import PolicyModel, ScalarModel, load_policy
from rlhf_core.modeling.packed_attention import (
    BY_SEQUENCE,
    require_no_router_loss,
    require_separation,
    without_padding,
)
from rlhf_core.modeling.token_scores import TokenQuery
from rlhf_core.modeling.trunk import Trunk
from rlhf_core.objectives.losses import masked_sum

SMALL = {"vocab_size": 64, "bos_token_id": None, "eos_token_id": 1, "pad_token_id": 0}
SIZES = SMALL | {
    "hidden_size": 8,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}
GROUPED = SIZES | {"num_key_value_heads": 1}
FAMILIES = {
    "llama": LlamaConfig(**GROUPED),
    "qwen 3": Qwen3Config(**GROUPED, head_dim=8),
    # windows shorter than the sequences: every layer's, and every second layer's
    "mistral, window": MistralConfig(**GROUPED, sliding_window=3),
    "gemma 2, window": Gemma2Config(**GROUPED, head_dim=8, sliding_window=3),
    "cohere": CohereConfig(**GROUPED),
    "gpt-2": GPT2Config(**SMALL, n_embd=8, n_layer=2, n_head=2),  # learnt positions
    "gpt-neox": GPTNeoXConfig(**SIZES),
    "opt": OPTConfig(
        **SMALL, hidden_size=8, ffn_dim=32, num_hidden_layers=2, num_attention_heads=2,
        word_embed_proj_dim=8,
    ),
    "mixtral": MixtralConfig(**GROUPED, num_local_experts=4, experts_implementation="eager"),
}  # fmt: skip
CLASSIFIERS = [name for name in FAMILIES if name != "cohere"]  # transformers has none for that one
DOUBLE = ("gpt-2", "gpt-neox", "opt")  # in float64 throughout
OWN_ATTENTION = {  # not of transformers' interface
    "gpt-j": GPTJConfig(**SMALL, n_embd=8, n_layer=2, n_head=2, rotary_dim=4),
    "gpt-neo": GPTNeoConfig(
        **SMALL, hidden_size=8, num_layers=2, num_heads=2, attention_types=[[["global"], 2]]
    ),
}
CROSSING = {  # a state passes along the row, or the mask does not follow positions
    "falcon": FalconConfig(**SMALL, hidden_size=8, num_hidden_layers=2, num_attention_heads=2),
    "falcon h1": FalconH1Config(
        **GROUPED, mamba_d_ssm=32, mamba_n_heads=4, mamba_d_head=8, mamba_d_state=8,
        mamba_chunk_size=8,
    ),
    "bloom": BloomConfig(**SMALL, hidden_size=8, n_layer=2, n_head=2),
}  # fmt: skip


# neighbours with one prompt, a prompt that ends as the one before, and a prompt once more
GROUPS = [
    Sequence([5, 6, 7], [8, 9, 1]),
    Sequence([5, 6, 7], [10, 1]),
    Sequence([5, 6, 7], [11, 12, 13, 14, 1]),
    Sequence([6, 7], [1]),
    Sequence([6, 7], [8, 9, 10, 1]),
    Sequence([5, 6, 7], [9, 1]),
]


def policy_of(config) -> PolicyModel:
    torch.manual_seed(3)
    return PolicyModel(AutoModelForCausalLM.from_config(config).eval()).double()


def scalar_of(config) -> ScalarModel:
    torch.manual_seed(3)
    config.num_labels = 1
    model = ScalarModel(AutoModelForSequenceClassification.from_config(config).eval()).double()
    model.model.score.float()  # scores are float32
    return model


def read(model: WrappedModel, batch: Batch = BATCH) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the numbers at real tokens, and gradients of a sum in which each has its weight."""
    model.zero_grad()
    found, mask = model(batch), batch.response_mask_BR
    if isinstance(model, ScalarModel):  # a column before the first response token
        mask = torch.cat([torch.ones_like(mask[:, :1]), mask], dim=1)
    found = found[mask]
    (
        found * torch.linspace(-1, 2, found.numel(), dtype=found.dtype).view_as(found)
    ).sum().backward()
    return found.detach(), {n: p.grad for n, p in model.named_parameters() if p.grad is not None}


BY_FAMILY = pytest.mark.parametrize(
    ("family", "make"),
    [*((name, policy_of) for name in FAMILIES), *((name, scalar_of) for name in CLASSIFIERS)],
)


@BY_FAMILY
def test_numbers_and_gradients_are_those_of_the_padded_batch(family, make, capsys):
    model = make(FAMILIES[family])
    padded, expected = read(model)
    without_padding(model, on=True, dtype="float32")
    assert model.model.config._attn_implementation == BY_SEQUENCE
    assert "once per sequence" in capsys.readouterr().out
    require_separation(model, dtype="float32")
    found, gradients = read(model)
    atol = 1e-10 if found.dtype == torch.float64 else 1e-6
    torch.testing.assert_close(found, padded, atol=atol, rtol=atol)
    assert gradients.keys() == expected.keys() and gradients
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, expected[name], atol=atol, rtol=10 * atol)


@pytest.mark.parametrize("family", FAMILIES)
def test_rounding_in_bfloat16_is_not_taken_for_crossing(family):
    for make in (policy_of, scalar_of) if family in CLASSIFIERS else (policy_of,):
        model = without_padding(make(FAMILIES[family]).float(), on=True, dtype="bfloat16")
        with torch.autocast("cpu", torch.bfloat16):
            require_separation(model, dtype="bfloat16")


@pytest.mark.parametrize("family", OWN_ATTENTION)
def test_a_family_with_attention_of_its_own_has_a_mask_over_the_row_and_a_line_that_says_so(
    family, capsys
):
    model = policy_of(OWN_ATTENTION[family])
    padded, _ = read(model)
    without_padding(model, on=True, dtype="float32")
    assert "one mask over the whole row" in capsys.readouterr().out
    require_separation(model, dtype="float32")
    torch.testing.assert_close(read(model)[0], padded, atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("family", CROSSING)
def test_a_model_that_reads_over_the_border_is_refused(family):
    model = without_padding(policy_of(CROSSING[family]), on=True, dtype="float32")
    with pytest.raises(BadInput, match=r"packing = true: .* over the border between the sequences"):
        require_separation(model, dtype="float32")


def test_attention_within_chunks_is_refused():
    config = Llama4TextConfig(**GROUPED, attention_chunk_size=4, head_dim=8, num_local_experts=2)
    with pytest.raises(BadInput, match=r"chunks of 4 tokens .* Set packing = false"):
        without_padding(policy_of(config), on=True, dtype="float32")


def test_float32_differs_by_at_most_a_millionth(tiny_model):
    model = load_policy(tiny_model)
    padded, expected = read(model)
    found, gradients = read(without_padding(model, on=True, dtype="float32"))
    torch.testing.assert_close(found, padded, atol=1e-6, rtol=1e-6)
    largest = max(float(gradient.abs().max()) for gradient in expected.values())
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, expected[name], atol=1e-6 * largest, rtol=1e-5)


def test_recomputed_activations_have_the_same_gradients():
    model = without_padding(policy_of(FAMILIES["mistral, window"]), on=True, dtype="float32")
    found, gradients = read(model)
    model.model.gradient_checkpointing_enable({"use_reentrant": False})
    model.train()
    again, others = read(model)
    assert again.equal(found)
    for name, gradient in gradients.items():
        torch.testing.assert_close(others[name], gradient, atol=1e-12, rtol=1e-12)


def test_every_role_of_a_shared_trunk_reads_without_padding():
    torch.manual_seed(3)
    trunk = Trunk(AutoModelForCausalLM.from_config(FAMILIES["llama"]), value_head=True).double()
    torch.nn.init.normal_(trunk.value_head.float().weight)
    padded = {role: trunk(BATCH, role) for role in ("actor", "critic", "reference")}
    without_padding(trunk, on=True, dtype="float32")
    mask_BR = BATCH.response_mask_BR
    for role, wanted in padded.items():
        found = trunk(BATCH, role)
        pairs = [(found, wanted)] if isinstance(found, Tensor) else zip(found, wanted, strict=True)
        for one, other in pairs:
            one, other = (x[:, -mask_BR.shape[1] :][mask_BR] for x in (one, other))
            atol = 1e-10 if one.dtype == torch.float64 else 1e-6
            torch.testing.assert_close(one, other, atol=atol, rtol=atol)


def test_the_saved_config_names_no_attention_of_ours(tiny_model, tmp_path):
    model = without_padding(load_policy(tiny_model), on=True, dtype="float32")
    model.model.save_pretrained(tmp_path)
    assert BY_SEQUENCE not in (tmp_path / "config.json").read_text()


def test_microbatches_count_real_tokens_with_packing():
    rows = [(2, 10), (9, 1), (1, 1), (2, 2)]
    for packing, wanted in ((False, [[2, 3], [1], [0]]), (True, [[2, 3, 1], [0]])):
        assert microbatches(rows, 16, packing=packing) == wanted


def test_a_batch_of_one_sequence_needs_no_mask():
    model = policy_of(FAMILIES["gemma 2, window"])
    batch = collate([Sequence([5, 6, 7], [8, 9, 1, 4])], 0)
    padded = model(batch)
    found = without_padding(model, on=True, dtype="float32")(batch)
    torch.testing.assert_close(found, padded, atol=1e-10, rtol=1e-10)


# Shared prompts


@BY_FAMILY
def test_a_shared_prompt_gives_the_numbers_and_gradients_of_copies(family, make):
    model, batch = make(FAMILIES[family]), collate(GROUPS, 0)
    padded, expected = read(model, batch)
    without_padding(model, on=True, dtype="float32", share_prompts=True)
    require_separation(model, dtype="float32", share_prompts=True)
    found, gradients = read(model, batch)
    atol = 1e-10 if found.dtype == torch.float64 else 1e-6
    torch.testing.assert_close(found, padded, atol=atol, rtol=atol)
    assert gradients.keys() == expected.keys() and gradients
    if family not in DOUBLE:  # a norm in float32 rounds the sum over responses, or each of them
        atol = 1e-6 * max(1.0, *(float(gradient.abs().max()) for gradient in expected.values()))
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, expected[name], atol=atol, rtol=10 * atol)


def test_the_backbone_reads_a_shared_prompt_once():
    model = without_padding(
        policy_of(FAMILIES["llama"]), on=True, dtype="float32", share_prompts=True
    )
    seen: list[list[int]] = []
    model.model.get_input_embeddings().register_forward_hook(
        lambda module, inputs, output: seen.extend(inputs[0].tolist())
    )
    model(collate(GROUPS, 0))
    wanted = [5, 6, 7, 8, 9, 1, 10, 1, 11, 12, 13, 14, 1]
    assert seen == [[*wanted, 6, 7, 1, 8, 9, 10, 1, 5, 6, 7, 9, 1]]


@pytest.mark.parametrize("limit", [0, 2**30])
def test_token_scores_of_shared_prompts_are_those_of_the_padded_batch(limit, tiny_model):
    policy, batch = load_policy(tiny_model), collate(GROUPS, 0)
    query = TokenQuery(temperature=0.7, entropy=True, greedy=True)
    policy._limit = 2**30  # whole logits; with 0 each token is a chunk
    padded = policy(batch, query=query)
    without_padding(policy, on=True, dtype="float32", share_prompts=True)
    policy._limit = limit
    mask_BR = batch.response_mask_BR
    for found, wanted in zip(policy(batch, query=query)[:3], padded[:3], strict=True):
        torch.testing.assert_close(found[mask_BR], wanted[mask_BR], atol=1e-6, rtol=1e-6)


def test_every_role_of_a_shared_trunk_reads_a_shared_prompt():
    torch.manual_seed(3)
    trunk = Trunk(AutoModelForCausalLM.from_config(FAMILIES["llama"]), value_head=True).double()
    torch.nn.init.normal_(trunk.value_head.float().weight)
    batch, query = collate(GROUPS, 0), TokenQuery()
    padded = [trunk(batch, query=query), trunk(batch, "reference", query=query)]
    values = trunk(batch, "critic")
    without_padding(trunk, on=True, dtype="float32", share_prompts=True)
    found = [trunk(batch, query=query), trunk(batch, "reference", query=query)]
    mask_BR = batch.response_mask_BR
    for one, other in zip(found, padded, strict=True):
        torch.testing.assert_close(one.logprobs_BR[mask_BR], other.logprobs_BR[mask_BR])
    after_BR1 = torch.cat([torch.ones_like(mask_BR[:, :1]), mask_BR], dim=1)
    for one in (found[0].values_BR1, trunk(batch, "critic")):
        torch.testing.assert_close(one[after_BR1], values[after_BR1], atol=1e-6, rtol=1e-6)


def test_recomputed_activations_of_shared_prompts_have_the_same_gradients():
    model = policy_of(FAMILIES["gemma 2, window"])
    without_padding(model, on=True, dtype="float32", share_prompts=True)
    batch = collate(GROUPS, 0)
    _, gradients = read(model, batch)
    model.model.gradient_checkpointing_enable({"use_reentrant": False})
    model.train()
    for name, gradient in read(model, batch)[1].items():
        torch.testing.assert_close(gradients[name], gradient, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("family", FAMILIES)
def test_rounding_in_bfloat16_is_not_taken_for_another_reading_of_the_prompt(family):
    model = policy_of(FAMILIES[family]).float()
    without_padding(model, on=True, dtype="bfloat16", share_prompts=True)
    with torch.autocast("cpu", torch.bfloat16):
        require_separation(model, dtype="bfloat16", share_prompts=True)


@pytest.mark.parametrize("family", OWN_ATTENTION)
def test_shared_prompts_are_refused_for_attention_of_the_familys_own(family):
    with pytest.raises(BadInput, match=r"share_prompts = true: .* attention of its own .* = false"):
        without_padding(
            policy_of(OWN_ATTENTION[family]), on=True, dtype="float32", share_prompts=True
        )


def test_a_model_that_does_not_read_the_shared_prompt_is_refused():
    """The mask of transformers takes the second reply for a sequence without a prompt."""
    model = without_padding(
        policy_of(FAMILIES["llama"]), on=True, dtype="float32", share_prompts=True
    )
    model.model.set_attn_implementation("sdpa")
    require_separation(model, dtype="float32")
    with pytest.raises(BadInput, match=r"share_prompts = true: .* otherwise .* Set share_prompts"):
        require_separation(model, dtype="float32", share_prompts=True)


def test_a_router_that_learns_is_refused_with_shared_prompts():
    policy = policy_of(FAMILIES["mixtral"]).float()
    learns = DeepSpeedEngine(policy, SFT(router_aux_loss_coef=0.1), dtype="float32").module
    require_no_router_loss(learns)
    without_padding(policy, on=True, dtype="float32", share_prompts=True)
    with pytest.raises(BadInput, match=r"share_prompts = true: .* router_aux_loss_coef = 0"):
        require_no_router_loss(learns)
    learns.router = None
    require_no_router_loss(learns)


def steps(zero_stage: int, *, share_prompts: bool) -> list[float]:
    """Return gradient norms and log-probabilities of three steps; every rank has its rows."""
    policy = policy_of(FAMILIES["llama"]).float()
    without_padding(policy, on=True, dtype="float32", share_prompts=share_prompts)
    engine = DeepSpeedEngine(policy, SFT(zero_stage=zero_stage), dtype="float32")
    sizes = [s.size for s in GROUPS]
    prompts = [tuple(s.prompt) for s in GROUPS] if share_prompts else None
    found = []
    for _ in range(3):
        for rows, counts in own_microbatches(sizes, 16, packing=True, prompts=prompts):
            batch = collate([GROUPS[row] for row in rows], 0)
            logprobs_BR = engine(batch, query=TokenQuery()).logprobs_BR
            loss = -masked_sum(logprobs_BR, batch.response_mask_BR) / 17
            engine.backward(loss, counts=counts)
        found.append(engine.step(1e-2))
        batch = collate(GROUPS, 0)
        logprobs_BR = engine.infer(batch, query=TokenQuery()).logprobs_BR
        found += logprobs_BR[batch.response_mask_BR].tolist()
    return found


@pytest.fixture(scope="module")
def plain() -> list[float]:
    return steps(0, share_prompts=False)


@pytest.mark.parametrize("zero_stage", [0, 3])
def test_steps_with_shared_prompts_are_those_with_copies(zero_stage, plain):
    assert steps(zero_stage, share_prompts=True) == pytest.approx(plain, abs=1e-5)


def _on_two_ranks(rank: int, port: int, report: str) -> None:
    own = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "LOCAL_SIZE": 2, "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in own.items()}, MASTER_ADDR="127.0.0.1")
    found = [steps(zero_stage, share_prompts=True) for zero_stage in (0, 3)]
    if rank == 0:
        Path(report).write_text(json.dumps(found))


@pytest.mark.slow
def test_two_ranks_with_shared_prompts_step_as_one(plain, tmp_path):
    """Ranks have unequal numbers of microbatches, and the prompt of one row on both."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    report = tmp_path / "report"
    mp.spawn(_on_two_ranks, args=(port, str(report)), nprocs=2)
    for found in json.loads(report.read_text()):
        assert found == pytest.approx(plain, abs=1e-5)

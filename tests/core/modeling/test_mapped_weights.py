"""Weights that stay in their files give the numbers of a float32 model, without a copy of it."""

from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

from rlhf_core.batching.batch import Sequence, collate
from rlhf_core.config import SFT, LoRA
from rlhf_core.engine.deepspeed import DeepSpeedEngine
from rlhf_core.modeling.mapped_weights import (
    has_rounded_buffers,
    maps_weights,
    release_pages,
    type_in_files,
)
from rlhf_core.modeling.models import inference, load_policy, load_scalar

on_a_cpu = pytest.mark.skipif(torch.cuda.is_available(), reason="on a CPU")
BATCH = collate([Sequence([7, 9], [8, 10, 11])], 0)


@pytest.fixture(scope="module")
def half_model(tiny_model, tmp_path_factory) -> Path:
    """Return the tiny model saved in bfloat16."""
    folder = tmp_path_factory.mktemp("half")
    for file in tiny_model.iterdir():
        if file.suffix != ".safetensors":
            (folder / file.name).write_bytes(file.read_bytes())
            continue
        weights = {name: value.bfloat16() for name, value in load_file(file).items()}
        save_file(weights, folder / file.name, metadata={"format": "pt"})
    return folder


@pytest.mark.parametrize("load", [load_policy, load_scalar])
@pytest.mark.parametrize("zero", [0, 3])
def test_the_steps_are_those_of_a_float32_model_bit_for_bit(half_model, load, zero):
    options = {"new_head": True, "seed": 3} if load is load_scalar else {}
    found = []
    for mapped in (False, True):
        model = load(half_model, mapped=mapped, **options)
        types = {weight.dtype for weight in model.model.base_model.parameters()}
        assert types == {torch.bfloat16 if mapped else torch.float32}
        engine = DeepSpeedEngine(model, SFT(zero_stage=zero), dtype="float32")
        for _ in range(2):
            loss = engine(BATCH).square().mean()
            engine.backward(loss)
            found.append((loss.item(), engine.step(1e-3)))
        weights = engine.whole_weights() or engine.module.model.state_dict()
        assert {value.dtype for value in weights.values()} == {torch.float32}
    assert found[:2] == found[2:]


def in_file(folder: Path, model: torch.nn.Module) -> set[str]:
    """Return the names of the weights that are read from the mapped file itself.

    By hand: its pages are mapped between these addresses.
    """
    maps = Path("/proc/self/maps").read_text().splitlines()
    own = [line.split() for line in maps if line.endswith(str(folder / "model.safetensors"))]
    spans = [tuple(int(end, 16) for end in line[0].split("-")) for line in own]
    return {
        name
        for name, weight in model.named_parameters()
        if any(begin <= weight.data_ptr() < end for begin, end in spans)
    }


def test_mapped_weights_share_the_memory_of_their_file(half_model):
    model = load_policy(half_model, mapped=True)
    assert in_file(half_model, model) == {name for name, _ in model.named_parameters()}


@on_a_cpu
@pytest.mark.parametrize("load", [load_policy, load_scalar])
def test_a_frozen_model_keeps_in_the_files_what_has_its_number_type(half_model, tiny_model, load):
    options = {"new_head": True, "seed": 3} if load is load_scalar else {}
    for folder, weights in ((half_model, None), (half_model, "float32"), (tiny_model, "float32")):
        dtype = "float32" if weights else "bfloat16"
        plain, mapped = (load(folder, mapped=mapped, **options) for mapped in (False, True))
        expected = inference(plain, dtype=dtype, weights=weights)(BATCH)
        assert inference(mapped, dtype=dtype, weights=weights)(BATCH).equal(expected)
        types = [{n: p.dtype for n, p in one.named_parameters()} for one in (plain, mapped)]
        assert types[0] == types[1]
        wanted = {
            name
            for name in types[1]
            if "score" not in name
            and (folder is tiny_model or (weights is None and types[1][name] == torch.bfloat16))
        }
        assert in_file(folder, mapped) == wanted


@pytest.mark.parametrize(("dtype", "weights"), [("float32", "float32"), ("bfloat16", None)])
def test_a_frozen_model_is_divided_from_its_files(half_model, dtype, weights):
    """Products in bfloat16 on one rank; DeepSpeed's own autocast is not asked."""
    expected = inference(load_policy(half_model), dtype=dtype, weights=weights)(BATCH)
    mapped = load_policy(half_model, mapped=True)
    assert inference(mapped, dtype=dtype, weights=weights, frozen="sharded")(BATCH).equal(expected)
    kinds = {weight.ds_tensor.dtype for weight in mapped.parameters()}
    assert kinds == {torch.float32} | ({torch.bfloat16} if weights is None else set())


def test_files_of_several_number_types_are_read_in_float32(half_model, tiny_model, tmp_path):
    weights = load_file(half_model / "model.safetensors")
    assert type_in_files(half_model) is torch.bfloat16
    assert type_in_files(tiny_model) is torch.float32
    first, *_ = weights
    save_file(weights | {first: weights[first].float()}, tmp_path / "model.safetensors")
    assert type_in_files(tmp_path) is torch.float32


def test_constants_in_less_than_float32_are_seen():
    model = torch.nn.Module()
    model.register_buffer("ids", torch.arange(3))
    assert not has_rounded_buffers(model)
    model.register_buffer("scale", torch.ones(1, dtype=torch.bfloat16))
    assert has_rounded_buffers(model)


@on_a_cpu
def test_a_cpu_maps_weights_where_zero_divides_them():
    assert maps_weights(SFT(zero_stage=3))
    assert not maps_weights(SFT(zero_stage=2)) and not maps_weights(SFT(lora=LoRA()))


def resident(folder: Path) -> int:
    """The bytes of a folder's files that are in this process's memory."""
    maps = psutil.Process().memory_maps(grouped=False)
    return sum(one.rss for one in maps if one.path.startswith(str(folder)))


@pytest.fixture
def wide_model(tmp_path) -> Path:
    """Return a model whose embeddings take many pages."""
    config = LlamaConfig(
        vocab_size=4096,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=1,
        num_attention_heads=2,
        pad_token_id=0,
    )
    LlamaForCausalLM(config).save_pretrained(tmp_path / "wide")
    return tmp_path / "wide"


@on_a_cpu
def test_between_its_passes_a_frozen_model_leaves_memory(wide_model):
    file = wide_model / "model.safetensors"
    file.rename(wide_model / "blob")  # as Hugging Face's cache has it
    file.symlink_to("blob")
    forward = inference(load_policy(wide_model, mapped=True), dtype="float32")
    expected = forward(BATCH)
    before = resident(wide_model)
    release_pages()
    assert resident(wide_model) < before / 10
    assert forward(BATCH).equal(expected)


@on_a_cpu
def test_released_pages_are_neither_those_of_a_model_that_learns_nor_of_copies(
    wide_model, half_model
):
    copied = inference(load_policy(half_model, mapped=True), dtype="float32")  # in main memory
    engine = DeepSpeedEngine(load_policy(wide_model), SFT(), dtype="float32")
    engine.backward(engine(BATCH).square().mean())
    engine.step(1e-2)
    expected = [copied(BATCH), engine.infer(BATCH)]
    release_pages()
    assert copied(BATCH).equal(expected[0]) and engine.infer(BATCH).equal(expected[1])

"""Low-rank adapters by PEFT: put on, switched, merged into plain weights, stored.

PEFT is imported only where a recipe has an adapter: that takes seconds.
"""

import contextlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from rlhf_core.config import LoRA
from rlhf_core.engine.base import WrappedModel
from rlhf_core.engine.gathering import changeable
from rlhf_core.errors import BadInput
from rlhf_core.file_modes import follow_umask
from rlhf_core.modeling.mapped_weights import as_float32

if TYPE_CHECKING:
    from peft.tuners.lora import LoraLayer

LEARNING = "default"  # the adapter that learns; it is merged on export and in a sync
HEAD = "score"
Wrapped = TypeVar("Wrapped", bound=WrappedModel)


def add_adapter(model: PreTrainedModel, lora: LoRA, *, seed: int) -> None:
    """Freeze the model and put a new adapter on it, in place; a scalar head goes on learning.

    B is 0, so that nothing changes before the first step; A is drawn with `seed`. Raises BadInput
    for target modules that the model does not have, or that are no linear maps inside the backbone.
    """
    from peft import LoraConfig, inject_adapter_in_model

    scalar = hasattr(model, HEAD)
    if lora.target_modules != "all-linear":
        require_linear(model, lora.target_modules)
    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=(
            lora.target_modules
            if isinstance(lora.target_modules, str)
            else list(lora.target_modules)
        ),
        # keeps the head, or the output layer, out of "all-linear"
        task_type="SEQ_CLS" if scalar else "CAUSAL_LM",
    )
    with torch.random.fork_rng(devices=[]), as_float32(model):
        torch.manual_seed(seed)
        inject_adapter_in_model(config, model, adapter_name=LEARNING)
    for layer in _layers(model).values():
        layer.set_adapter(LEARNING)  # not by itself where another adapter came first
    if scalar:
        getattr(model, HEAD).requires_grad_(True)


def with_adapter(module: Wrapped, lora: LoRA | None, *, seed: int) -> Wrapped:
    """Return the model, with a new adapter where the recipe has one."""
    if lora:
        add_adapter(module.model, lora, seed=seed)
    return module


def require_linear(model: PreTrainedModel, names: tuple[str, ...]) -> None:
    """Raise BadInput for a name that is no linear map of the backbone."""
    inside = dict(model.base_model.named_modules())
    linear = {
        name
        for name, module in inside.items()
        if isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"
    }
    for name in names:
        if not any(full == name or full.endswith(f".{name}") for full in linear):
            known = ", ".join(sorted({full.rpartition(".")[2] for full in linear}))
            raise BadInput(
                f"lora.target_modules has {name!r}, which is no linear map of the backbone;"
                f" expected one of {known}"
            )


def has_adapter(model: nn.Module) -> bool:
    """Say if a model carries adapters."""
    return bool(getattr(model, "peft_config", None))


def plain_tensors(
    model: PreTrainedModel, named: Iterable[tuple[str, Tensor]] | None = None
) -> Iterator[tuple[str, Tensor]]:
    """Yield names and tensors of the plain model's checkpoint.

    A weight with the learning adapter becomes W + alpha / rank * B A. The model stays as it is, and
    one merged tensor is made at a time; without adapters the tensors themselves are given.
    named: the model's tensors, if they come from elsewhere than its state_dict, in that order.
    """
    named = model.state_dict().items() if named is None else named
    layers = _layers(model) if has_adapter(model) else {}
    # W, then A, until B comes: the order in which a layer registers them
    held: dict[str, Tensor] = {}
    for name, tensor in named:
        owner, part, rest = _place(name)
        if owner not in layers:
            yield name, tensor
        elif part == "base_layer" and (rest != "weight" or LEARNING not in layers[owner].lora_A):
            yield f"{owner}.{rest}", tensor
        elif part == "base_layer" or rest == f"{LEARNING}.weight":
            held[part] = tensor
        if len(held) == 3:
            parts = [held.pop(key) for key in ("base_layer", "lora_A", "lora_B")]
            yield f"{owner}.weight", _merged(layers[owner], *parts)


def is_of_adapter(name: str) -> bool:
    """Say if a tensor of this name belongs to an adapter."""
    return _place(name)[1].startswith("lora_")


def _place(name: str) -> tuple[str, str, str]:
    """Split 'model.q_proj.lora_A.default.weight' into 'model.q_proj', 'lora_A', 'default.weight'.

    Other names get the owner ''.
    """
    for part in ("base_layer", "lora_A", "lora_B"):
        owner, found, rest = name.partition(f".{part}.")
        if found:
            return owner, part, rest
    return "", "", name


@torch.no_grad()
def _merged(layer: "LoraLayer", weight: Tensor, a: Tensor, b: Tensor) -> Tensor:
    change = b @ a
    return weight + (change.T if layer.fan_in_fan_out else change) * layer.scaling[LEARNING]


def merge_adapter(model: PreTrainedModel) -> None:
    """Merge the learning adapter into the weights and take all adapters off, in place.

    The result is a plain transformers model. PEFT's merge_and_unload does the same, but needs the
    tuner object, which in-place injection does not keep. Does nothing without adapters. Of weights
    that ZeRO 3 divides, each rank keeps its share of the merged one: all ranks take part.
    """
    if not has_adapter(model):
        return
    for name, layer in _layers(model).items():
        with changeable(layer.parameters()):
            layer.merge(adapter_names=[LEARNING])
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, layer.get_base_layer())
    del model.peft_config


def save_adapter(
    model: PreTrainedModel, folder: Path, *, weights: Mapping[str, Tensor] | None = None
) -> None:
    """Write the learning adapter, and the scalar head that learnt with it, in PEFT's format.

    weights: those that learn, by name, if the model does not hold them whole.
    """
    if weights is None:
        weights = {name: p for name, p in model.named_parameters() if p.requires_grad}
    folder.mkdir(exist_ok=True)
    config = replace(
        model.peft_config[LEARNING],
        inference_mode=True,
        modules_to_save=[HEAD] if hasattr(model, HEAD) else None,
    )
    # a set has no order, and the bytes are an identity
    config.target_modules = sorted(config.target_modules)
    config.save_pretrained(folder)
    tensors = {
        f"base_model.model.{name.replace(f'.{LEARNING}.', '.')}": value.detach().cpu().contiguous()
        for name, value in weights.items()
    }
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    follow_umask(folder)


def write_origin(folder: Path, *, base: str, merged: str) -> None:
    """Record the model an adapter was trained on, and the one it gives when merged (digests)."""
    (folder / "origin.json").write_text(
        json.dumps({"base": base, "merged": merged}, indent=1), encoding="utf-8"
    )


def require_origin(folder: Path, *, base: str, merged: str) -> None:
    """Raise BadInput unless the adapter was trained on `base` and gave `merged` (digests)."""
    try:
        origin = json.loads((folder / "origin.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadInput(
            f"{folder} does not say what its adapter was trained on ({error}); train the reward"
            " model again"
        ) from None
    if origin != {"base": base, "merged": merged}:
        found = [str(origin.get(name))[:12] for name in ("base", "merged")]
        raise BadInput(
            f"the reward adapter {folder} was trained on model {found[0]} and gave {found[1]};"
            f" expected the reference {base[:12]} and the reward model {merged[:12]}: another trunk"
            " would change its scores. Train the reward model again with reward.lora from this SFT"
            " model, or set ppo.reward_trunk='own'."
        )


def load_adapter(model: PreTrainedModel, folder: Path, name: str) -> nn.Linear:
    """Put a stored adapter on a model as `name`, frozen and not active.

    Return the scalar head that was stored with it.
    """
    from peft import LoraConfig, inject_adapter_in_model

    config = LoraConfig.from_pretrained(str(folder))
    config.modules_to_save = None
    stored = load_file(folder / "adapter_model.safetensors")
    with as_float32(model):
        inject_adapter_in_model(config, model, adapter_name=name)
    model.requires_grad_(False)
    parameters = dict(model.named_parameters())
    for key, tensor in stored.items():
        place = key.removeprefix("base_model.model.")
        if place != f"{HEAD}.weight":
            parameters[
                place.replace(".lora_A.", f".lora_A.{name}.").replace(
                    ".lora_B.", f".lora_B.{name}."
                )
            ].data.copy_(tensor)
    weight = stored[f"base_model.model.{HEAD}.weight"]
    head = nn.Linear(weight.shape[1], 1, bias=False)
    head.weight = nn.Parameter(weight, requires_grad=False)
    return head


@contextlib.contextmanager
def acting(model: PreTrainedModel, adapter: str | None) -> Iterator[None]:
    """Let this adapter alone act while open; then the learning one acts again.

    None: the plain model.
    """
    layers = list(_layers(model).values())
    try:
        for layer in layers:
            layer.enable_adapters(adapter is not None)
            if adapter is not None:
                layer.set_adapter(adapter, inference_mode=True)
        yield
    finally:
        for layer in layers:
            layer.enable_adapters(True)
            # its weights, and no other adapter's, may have gradients again
            layer.set_adapter(LEARNING)


def _layers(model: nn.Module) -> dict[str, "LoraLayer"]:
    from peft.tuners.lora import LoraLayer

    return {name: module for name, module in model.named_modules() if isinstance(module, LoraLayer)}

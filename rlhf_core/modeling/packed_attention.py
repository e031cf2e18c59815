"""Attention within the sequences of a packed row, by transformers' own interfaces.

With a flash-attention package on a GPU, transformers runs its kernel for variable lengths. Else
torch's scaled_dot_product_attention runs once per sequence, without a mask: its cost is the sum of
the squares of the lengths. transformers' own way, one mask over the whole row, costs the square of
the row. A family whose attention is not of transformers' interface takes that way.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask
from transformers.utils import is_flash_attn_2_available, is_flash_attn_3_available

from rlhf_core.batching.batch import Batch, Sequence, collate, device
from rlhf_core.batching.packing import lengths_in_row
from rlhf_core.errors import BadInput
from rlhf_core.modeling.lora import Wrapped
from rlhf_core.ranks import is_rank_zero

BY_SEQUENCE = "sdpa_by_sequence"
# shares of the largest number by which a sequence may change without crossing, by rounding: with
# other tokens before it, where mostly nothing changes, and beside the sequence alone
SAME = {"float32": 1e-5, "bfloat16": 0.02}
ALONE = {"float32": 1e-4, "bfloat16": 0.1}
_KERNELS = {
    BY_SEQUENCE: "torch's scaled_dot_product_attention, once per sequence",
    "flash_attention_2": "flash-attn's kernel for variable lengths (flash_attention_2)",
    "flash_attention_3": "flash-attn's kernel for variable lengths (flash_attention_3)",
}


@dataclass(frozen=True)
class SequenceMasks:
    """The lengths of a packed row's sequences, and the mask of each that needs one.

    Layers get it in place of a mask.
    """

    lengths: list[int]
    masks: list[Tensor | None]


def sequence_masks(
    *,
    q_length: int,
    mask_function: Callable[..., Tensor],
    local_size: int | None = None,
    device: torch.device | str = "cpu",
    **options: Any,
) -> SequenceMasks | Tensor | None:
    """Return the masks of a packed row's sequences; sdpa's own mask for any other batch.

    A causal sequence needs none, unless it is longer than the sliding window, local_size.
    mask_function: of the row's places, by transformers; causality, and the window.
    """
    lengths = lengths_in_row()
    if lengths is None or not _reads_one_row(sum(lengths), q_length, **options):
        options |= {"local_size": local_size, "device": device}
        return sdpa_mask(q_length=q_length, mask_function=mask_function, **options)
    zero, masks = torch.zeros(1, dtype=torch.long, device=device), []
    for place in torch.arange(q_length, device=device).split(lengths):
        n = len(place)
        windowed = local_size is not None and n > local_size
        mask = mask_function(zero, zero, place[:, None], place[None, :]) if windowed else None
        masks.append(None if mask is None else mask.expand(1, 1, n, n))
    return SequenceMasks(lengths, masks)


def _reads_one_row(length: int, q_length: int, **options: Any) -> bool:
    """Return True for a whole row without cache; overlays of other kinds need vmap."""
    whole = options["batch_size"] == 1 and options["kv_length"] == q_length == length
    return whole and options.get("attention_mask") is None and not options.get("use_vmap", False)


def attention_by_sequence(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: SequenceMasks | Tensor | None,
    **options: Any,
) -> tuple[Tensor, None]:
    """Return sdpa's attention, (B, L, heads, width), within each sequence of a packed row.

    query, key, value: (B, heads, L, width).
    """
    if not isinstance(attention_mask, SequenceMasks):
        return sdpa_attention_forward(module, query, key, value, attention_mask, **options)
    parts = zip(
        *(states.split(attention_mask.lengths, dim=2) for states in (query, key, value)),
        attention_mask.masks,
        strict=True,
    )
    outputs = [sdpa_attention_forward(module, *part, **options)[0] for part in parts]
    return torch.cat(outputs, dim=1), None


AttentionInterface.register(BY_SEQUENCE, attention_by_sequence)
AttentionMaskInterface.register(BY_SEQUENCE, sequence_masks)


def without_padding(module: Wrapped, *, on: bool, dtype: str) -> Wrapped:
    """Let a model read batches as packed rows, and choose its attention; nothing where not `on`.

    A line in the stage's log names the kernel. dtype: of the matrix products. Raises BadInput for
    attention within chunks, whose borders transformers counts along the whole row.
    """
    if not on:
        return module
    require_whole_attention(module.model)
    module.packing = True
    chosen = _choose(module.model, dtype)
    if is_rank_zero():
        slow = f"{chosen} with one mask over the whole row, which is slow for long rows"
        print(f"packing: {type(module.model).__name__} attends by {_KERNELS.get(chosen, slow)}")
    return module


def require_whole_attention(model: PreTrainedModel) -> None:
    """Raise BadInput for a model that attends within chunks; its weights are not read."""
    if chunk := getattr(model.config.get_text_config(), "attention_chunk_size", None):
        raise BadInput(
            f"packing = true: {type(model).__name__} attends within chunks of {chunk} tokens"
            " (attention_chunk_size), which packed rows would cut elsewhere. Set packing = false."
        )


def _choose(model: PreTrainedModel, dtype: str) -> str:
    """Set the best attention that model, device and packages have; return its name."""
    config = model.config.get_text_config()
    if config._attn_implementation != "sdpa":  # a family without it
        return str(config._attn_implementation)
    names = [BY_SEQUENCE]
    if device().type == "cuda" and dtype == "bfloat16":  # the package has no float32
        names = [*_flash_attention(), BY_SEQUENCE]
    for name in names:
        try:
            model.set_attn_implementation(name)
        except (ImportError, ValueError):
            continue
        if config._attn_implementation == name:
            break
    return str(config._attn_implementation)


def _flash_attention() -> list[str]:
    found = {
        "flash_attention_3": is_flash_attn_3_available(),
        "flash_attention_2": is_flash_attn_2_available(),
    }
    return [name for name, available in found.items() if available]


@torch.no_grad()
def require_separation(forward: Callable[[Batch], Tensor], *, dtype: str) -> None:
    """Raise BadInput unless a model reads a sequence of a packed row as it reads it alone.

    forward: numbers at response tokens, (B, ...), of a model that reads without padding.
    """
    first, other, second = (
        Sequence([1, 2, 3], [4, 2]),
        Sequence([4, 5, 1], [2, 3]),
        Sequence([5, 2, 4], [1, 3, 4]),
    )
    after_first, after_other, alone = (
        forward(collate(rows, 0))[-1].float()
        for rows in ([first, second], [other, second], [second])
    )
    for compared, share in ((after_other, SAME[dtype]), (alone, ALONE[dtype])):
        difference = float((after_first - compared).abs().max())
        if difference > share * float(alone.abs().max()):
            raise BadInput(
                "packing = true: this model reads over the border between the sequences of a row"
                f" (its numbers change by {difference:.3g}; expected 0). Set packing = false."
            )

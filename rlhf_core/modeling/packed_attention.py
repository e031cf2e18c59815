"""Attention within the sequences of a packed row, by transformers' own interfaces.

With a flash-attention package on a GPU, transformers runs its kernel for variable lengths. Else
torch's scaled_dot_product_attention runs once per sequence, without a mask: its cost is the sum of
the squares of the lengths. transformers' own way, one mask over the whole row, costs the square of
the row. A family whose attention is not of transformers' interface takes that way.
A response to a shared prompt attends to the prompt's one copy and to itself, with a mask, which
torch's scaled_dot_product_attention alone can do.
"""

from collections.abc import Callable, Iterator
from collections.abc import Sequence as Seq
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask
from transformers.utils import is_flash_attn_2_available, is_flash_attn_3_available

from rlhf_core.batching.batch import Batch, Sequence, collate, device
from rlhf_core.batching.packing import Span, spans_in_row
from rlhf_core.engine.base import WrappedModel
from rlhf_core.engine.router import RouterLoss
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
    """The spans of a packed row's sequences, and the mask of each that needs one.

    Layers get it in place of a mask.
    """

    spans: list[Span]
    masks: list[Tensor | None]


def sequence_masks(
    *,
    q_length: int,
    local_size: int | None = None,
    device: torch.device | str = "cpu",
    **options: Any,
) -> SequenceMasks | Tensor | None:
    """Return the masks of a packed row's sequences; sdpa's own mask for any other batch.

    A causal sequence needs none, unless it is longer than the sliding window, local_size, or shares
    the prompt of another.
    """
    spans = spans_in_row()
    if spans is None or not _reads_one_row(sum(s.tokens for s in spans), q_length, **options):
        return sdpa_mask(q_length=q_length, local_size=local_size, device=device, **options)
    return SequenceMasks(spans, [_mask_of(span, local_size, device) for span in spans])


def _mask_of(span: Span, window: int | None, device: torch.device | str) -> Tensor | None:
    """Return True where a token of the span attends, (1, 1, tokens, shared + tokens)."""
    length = sum(span)
    if not span.shared and (window is None or length <= window):
        return None
    position_L = torch.arange(length, device=device)
    distance = position_L[span.shared :, None] - position_L[None, :]
    return ((distance >= 0) & (distance < (window or length)))[None, None]


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
    spans = attention_mask.spans
    tokens = [span.tokens for span in spans]
    parts = zip(
        query.split(tokens, dim=2),
        _with_prompts(key.split(tokens, dim=2), spans),
        _with_prompts(value.split(tokens, dim=2), spans),
        attention_mask.masks,
        strict=True,
    )
    outputs = [sdpa_attention_forward(module, *part, **options)[0] for part in parts]
    return torch.cat(outputs, dim=1), None


def _with_prompts(parts: Seq[Tensor], spans: list[Span]) -> Iterator[Tensor]:
    """Yield each sequence's keys or values, those of a shared prompt before its own."""
    whole = parts[0]
    for part, span in zip(parts, spans, strict=True):
        if span.shared:
            yield torch.cat([whole[:, :, : span.shared], part], dim=2)
        else:
            whole = part
            yield part


AttentionInterface.register(BY_SEQUENCE, attention_by_sequence)
AttentionMaskInterface.register(BY_SEQUENCE, sequence_masks)


def without_padding(
    module: Wrapped, *, on: bool, dtype: str, share_prompts: bool = False
) -> Wrapped:
    """Let a model read batches as packed rows, and choose its attention; nothing where not `on`.

    A line in the stage's log names the kernel. dtype: of the matrix products. share_prompts: rows
    have the prompt that neighbours have in common once. Raises BadInput for attention within
    chunks, whose borders transformers counts along the whole row, and for shared prompts where
    attention cannot run by sequence.
    """
    if not on:
        return module
    require_whole_attention(module.model)
    module.packing, module.share_prompts = True, share_prompts
    flash = device().type == "cuda" and dtype == "bfloat16" and not share_prompts
    chosen = choose_attention(module.model, flash=flash)
    if share_prompts:
        require_shared_prompts(module.model)
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


def choose_attention(model: PreTrainedModel, *, flash: bool) -> str:
    """Set the best attention that model, device and packages have; return its name.

    flash: flash-attn's kernels can compute it: on a GPU, in bfloat16, without shared prompts.
    """
    config = model.config.get_text_config()
    if config._attn_implementation != "sdpa":  # a family without it
        return str(config._attn_implementation)
    names = [BY_SEQUENCE]
    if flash:
        names = [*_flash_attention(), BY_SEQUENCE]
    for name in names:
        try:
            model.set_attn_implementation(name)
        except (ImportError, ValueError):
            continue
        if config._attn_implementation == name:
            break
    return str(config._attn_implementation)


def require_shared_prompts(model: PreTrainedModel) -> None:
    """Raise BadInput unless the chosen attention lets sequences read one copy of their prompt."""
    if (chosen := model.config.get_text_config()._attn_implementation) != BY_SEQUENCE:
        raise BadInput(
            f"share_prompts = true: {type(model).__name__} has attention of its own ({chosen}), by"
            " which replies cannot read one copy of their prompt; expected a family that"
            " transformers runs by sdpa. Set share_prompts = false."
        )


def _flash_attention() -> list[str]:
    found = {
        "flash_attention_3": is_flash_attn_3_available(),
        "flash_attention_2": is_flash_attn_2_available(),
    }
    return [name for name, available in found.items() if available]


def require_no_router_loss(module: WrappedModel) -> None:
    """Raise BadInput for shared prompts of a mixture of experts whose balancing loss learns.

    The loss is a mean over all tokens that the model reads, where a shared prompt would count once.
    """
    if module.share_prompts:
        refuse_balancing(module.model, module.router)


def refuse_balancing(model: nn.Module, router: RouterLoss | None) -> None:
    """Raise BadInput, as `require_no_router_loss`, for a model that has a balancing loss."""
    if router is not None:
        raise BadInput(
            f"share_prompts = true: {type(model).__name__} learns to balance its experts"
            " over all tokens that it reads, in which a shared prompt would count once. Set"
            " share_prompts = false, or router_aux_loss_coef = 0."
        )


@torch.no_grad()
def require_separation(
    forward: Callable[[Batch], Tensor], *, dtype: str, share_prompts: bool = False
) -> None:
    """Raise BadInput unless a model reads a sequence of a packed row as it reads it alone.

    forward: numbers at response tokens, (B, ...), of a model that reads without padding.
    share_prompts: check also a sequence that shares its prompt with the one before.
    """
    first, other, second = (
        Sequence([1, 2, 3], [4, 2]),
        Sequence([4, 5, 1], [2, 3]),
        Sequence([5, 2, 4], [1, 3, 4]),
    )
    _require_same(
        forward,
        ([first, second], [other, second], [second]),
        dtype,
        "packing = true: this model reads over the border between the sequences of a row",
    )
    if share_prompts:
        siblings = [replace(second, response=one.response) for one in (first, other)]
        _require_same(
            forward,
            ([siblings[0], second], [siblings[1], second], [second]),
            dtype,
            "share_prompts = true: this model reads replies to one copy of their prompt otherwise"
            " than each with a copy of its own",
        )


def _require_same(
    forward: Callable[[Batch], Tensor], rows: tuple[list[Sequence], ...], dtype: str, found: str
) -> None:
    """Raise BadInput unless a sequence has the same numbers after one, after another and alone.

    found: the beginning of the message, which names the key.
    """
    after_first, after_other, alone = (forward(collate(row, 0))[-1].float() for row in rows)
    for compared, share in ((after_other, SAME[dtype]), (alone, ALONE[dtype])):
        difference = float((after_first - compared).abs().max())
        if difference > share * float(alone.abs().max()):
            key = found.partition(" ")[0]
            raise BadInput(
                f"{found} (its numbers change by {difference:.3g}; expected 0). Set {key} = false."
            )

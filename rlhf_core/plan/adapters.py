"""The change of the arithmetic by low-rank adapters: parameters that learn, and activations.

Letters as in memory.py; r: rank. The coefficients are counted from PEFT's layers. Tests compare
them with autograd.
"""

from rlhf_core.config import LoRA
from rlhf_core.plan.memory import FLOAT, BatchShape
from rlhf_core.plan.shape import ModelShape
from rlhf_core.plan.strategy import Strategy


def adapted_maps(shape: ModelShape, lora: LoRA) -> dict[str, tuple[int, int]]:
    """Return the linear maps of a layer that have an adapter, with their widths."""
    if lora.target_modules == "all-linear":
        return shape.linear_maps
    named = {name.rpartition(".")[2] for name in lora.target_modules}
    return {name: widths for name, widths in shape.linear_maps.items() if name in named}


def adapter_parameters(shape: ModelShape, lora: LoRA) -> int:
    """Return n r sum (in + out) over the adapted maps.

    Source: Hu et al. 2021, arXiv:2106.09685, section 4.1.
    """
    return shape.layers * lora.rank * sum(map(sum, adapted_maps(shape, lora).values()))


def activations_change(
    shape: ModelShape, batch: BatchShape, strategy: Strategy, lora: LoRA
) -> float:
    """Return the bytes that saved_activations grows by if adapters learn in place of the weights.

    The number is mostly below 0. Per token and layer: + e r for each adapter (A x), + 2Q in
    bfloat16 (o_proj's input, cast twice); minus 8D, the normed outputs of both norms, which only
    their own weights needed, and minus the inputs of maps without an adapter. Once per token: minus
    4D, the last norm's normed output.
    """
    if strategy.half_weights or strategy.checkpointing:
        # an upper bound: training does not offer the one, and the other keeps no such tensors
        return 0.0
    D, e = shape.hidden, strategy.compute_bytes
    maps = adapted_maps(shape, lora)
    layer = (
        e * lora.rank * len(maps)
        - 2 * FLOAT * D
        - shape.qk_norm * e * (shape.query_width + shape.kv_width)
    )
    if strategy.autocast:  # each map casts its own input
        layer += 2 * shape.query_width * ("o_proj" in maps)
        layer -= 2 * sum(
            widths[0] for name, widths in shape.linear_maps.items() if name not in (*maps, "o_proj")
        )
    else:
        layer -= FLOAT * D * (not {"q_proj", "k_proj", "v_proj"} & set(maps))
        layer -= FLOAT * D * (not {"gate_proj", "up_proj"} & set(maps))
        layer -= FLOAT * shape.intermediate * ("down_proj" not in maps)
    return batch.tokens * (shape.layers * layer - FLOAT * D)

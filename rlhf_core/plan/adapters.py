"""What low-rank adapters change in the arithmetic: how much learns, and what the backward pass
needs.

Letters as in memory.py; r: rank. The coefficients are counted from PEFT's layers and held to
autograd by tests.
"""

from rlhf_core.config import LoRA
from rlhf_core.plan.memory import FLOAT, BatchShape
from rlhf_core.plan.shape import ModelShape
from rlhf_core.plan.strategy import Strategy


def adapted_maps(shape: ModelShape, lora: LoRA) -> dict[str, tuple[int, int]]:
    """The linear maps of a layer that have an adapter, with their widths."""
    if lora.target_modules == "all-linear":
        return shape.linear_maps
    named = {name.rpartition(".")[2] for name in lora.target_modules}
    return {name: widths for name, widths in shape.linear_maps.items() if name in named}


def adapter_parameters(shape: ModelShape, lora: LoRA) -> int:
    """N r sum (in + out) over the adapted maps (Hu et al. 2021, arXiv:2106.09685, section 4.1)."""
    return shape.layers * lora.rank * sum(map(sum, adapted_maps(shape, lora).values()))


def activations_change(
    shape: ModelShape, batch: BatchShape, strategy: Strategy, lora: LoRA
) -> float:
    """Bytes that saved_activations grows by when adapters learn in place of the weights; mostly
    below 0.

    A token and layer: + e r for each adapter (A x), + 2Q in bfloat16 (o_proj's input, cast twice);
    less both norms' normed outputs, 8D, that only their own weights needed, and the inputs of maps
    that have no adapter. Once: the last norm's, 4D.
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

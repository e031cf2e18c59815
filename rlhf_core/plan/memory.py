"""The formulas: bytes on one device.

They cover weights, gradients, optimizer states, activations, logits and KV cache.

Letters: P parameters, N devices, w bytes of a weight, e bytes of a number in a matrix product, T
tokens that go through the model at once, L tokens of the longest row, D hidden, I intermediate, Q
query width, H heads, V vocabulary, n layers.
Sources: Rajbhandari et al. 2020 (arXiv:1910.02054) for the states, Korthikanti et al. 2022
(arXiv:2205.05198) for the idea behind the activations. The activations' coefficients are counted
from the modules that run here; tests compare them with what autograd really saves.
"""

from dataclasses import dataclass

from rlhf_core.plan.shape import ModelShape
from rlhf_core.plan.strategy import Strategy

BUCKET = 50_000_000  # elements of a gradient bucket of ZeRO: rlhf_core/engine/deepspeed.py
ALL_REDUCE_BUCKET = 500_000_000  # of stage 0, DeepSpeed's own
# elements that ZeRO 3 may hold gathered: stage3_max_live_parameters
LIVE_PARAMETERS = 1_000_000_000
GATHERED = 50_000_000  # elements that ZeRO 3 gathers in one call: stage3_prefetch_bucket_size
ADAM_STATES = 2  # float32 mean and variance
FLOAT = 4
HALF = 2


@dataclass(frozen=True)
class BatchShape:
    """The tokens that go through a model at once.

    tokens: padding included. length: tokens of the longest row. positions: tokens with logits.
    """

    tokens: int
    length: int
    positions: int


@dataclass(frozen=True)
class TrainingState:
    """Bytes on one device for a model that learns.

    stepping: held only while the optimizer steps. host: in host memory.
    """

    weights: float
    # bfloat16 copies of weights, from the forward pass to the end of the backward pass
    casts: float
    # the copies that autocast keeps in a pass without gradients: of weights that learn
    cached: float
    gradients: float
    optimizer: float
    buckets: float  # gradients on their way between devices
    gathered: float  # weights on their way between devices
    stepping: float
    host: float = 0.0


def training_state(
    parameters: int,
    matrices: int,
    strategy: Strategy,
    *,
    on_cpu: bool = False,
    adapters: int | None = None,
) -> TrainingState:
    """Return the states of AdamW training.

    Stage 0: wP + wP + 8P. Stages 1 and 2: the optimizer's 4P master weights + 8P are divided by N,
    in stage 2 the gradients too, in stage 3 the weights too.
    Source: Rajbhandari et al. 2020, section 3, as DeepSpeed implements it.
    parameters: P. matrices: weights of linear maps, which autocast copies.
    on_cpu: the device is host memory. Only those bytes of a bucket count that are written, not all
    that are reserved, and offloading to it moves nothing.
    adapters: number of parameters that learn (adapters and a head) beside the P, which are frozen.
    Gradients, optimizer and buckets are then only of these.
    """
    learning = parameters if adapters is None else adapters
    parameters, matrices = parameters + (adapters or 0), matrices + (adapters or 0)
    w, stage, share = strategy.weight_bytes, strategy.zero_stage, learning / strategy.devices
    sharded = stage >= 1
    weights = (
        w * parameters
        if stage < 3
        else w * (parameters / strategy.devices + min(parameters, LIVE_PARAMETERS))
    )
    gradients = w * (share if stage >= 2 else learning)
    masters = FLOAT * share if sharded else 0
    moments = FLOAT * ADAM_STATES * (share if sharded else learning)
    kept = 0 if strategy.offload_optimizer == "disk" else moments  # between the steps
    sent = HALF if strategy.autocast else w  # bytes of a number that ZeRO 3 sends
    # autocast's gradients have a bucket of their own
    of_casts = (w if stage < 3 else sent) if strategy.autocast else 0
    bucket = w * min(BUCKET, learning) if on_cpu else (w + of_casts) * BUCKET
    offloaded = bool(strategy.offload_optimizer) and sharded and not on_cpu
    step = w * share if sharded else w * min(ALL_REDUCE_BUCKET, learning) * (strategy.devices > 1)
    copied = strategy.autocast and stage < 3
    return TrainingState(
        weights=weights,
        casts=HALF * matrices if copied else 0,
        cached=HALF * (matrices if adapters is None else adapters) if copied else 0,
        gradients=gradients,
        optimizer=0 if offloaded else masters + kept,
        buckets=bucket if sharded else 0,
        gathered=sent * min(GATHERED, parameters) if stage == 3 and strategy.devices > 1 else 0,
        stepping=0 if offloaded else step + moments - kept,
        host=masters + FLOAT * share + kept if offloaded else 0,
    )


def saved_activations(shape: ModelShape, batch: BatchShape, strategy: Strategy) -> float:
    """Return the bytes that the backbone's forward pass keeps for the backward pass.

    Per token and layer in float32: 4 (6D + 4Q + 4I + L + H + 2). Two norms keep input, normed and
    scaled output. Attention keeps q, k (repeated over its group), v, output, one mask row and one
    log-sum per head. The MLP keeps gate, silu(gate), up and their product. With checkpointing:
    each layer's input, plus one layer that is recomputed.
    """
    layer = _saved_by_layer(shape, batch.length, strategy)
    residual = strategy.weight_bytes  # bytes of a number between layers
    # norm; cos, sin; token ids
    final = (FLOAT + residual) * shape.hidden + 2 * residual * shape.head_width + FLOAT + 8
    if strategy.checkpointing:
        return batch.tokens * (shape.layers * residual * shape.hidden + layer + final)
    return batch.tokens * (shape.layers * layer + final)


def _saved_by_layer(shape: ModelShape, length: int, strategy: Strategy) -> int:
    D, Q, inner, H = shape.hidden, shape.query_width, shape.intermediate, shape.heads
    if strategy.compute_bytes == FLOAT:
        layer = 4 * (6 * D + 4 * Q + 4 * inner + length + H + 2)
    else:  # norms in float32; with autocast residuals too, and each linear map casts its own input
        layer = (26 if strategy.autocast else 16) * D + 8 * Q + 8 * inner + 2 * length + 4 * H + 8
    norm = FLOAT + strategy.compute_bytes
    return layer + shape.qk_norm * (norm * (Q + shape.kv_width) + FLOAT * (H + shape.kv_heads))


def working_tensors(
    shape: ModelShape, batch: BatchShape, strategy: Strategy, *, learns: bool
) -> float:
    """Return the bytes that live beside the saved activations.

    4T(I + 2D) of gradients, or T(4eI + 12D) of a pass without gradients.
    """
    if learns:
        return FLOAT * batch.tokens * (shape.intermediate + 2 * shape.hidden)
    return batch.tokens * (
        4 * strategy.compute_bytes * shape.intermediate + 3 * FLOAT * shape.hidden
    )


def logits(
    shape: ModelShape, batch: BatchShape, strategy: Strategy, *, learns: bool, entropy: bool = False
) -> float:
    """Return the bytes of whole logits: float32 tensors of size positions x V that live at once.

    Without gradients there are 2 (logits, and exp inside logsumexp), with gradients 4 (logits, and
    three inside the backward pass). An entropy adds one, or two where bfloat16 logits are widened
    once more; the bfloat16 logits are then kept too.
    """
    half = strategy.compute_bytes == HALF
    copies = (4 if learns else 2) + entropy * (2 if learns and half else 1)
    kept = HALF if half and entropy and not learns else 0
    return batch.positions * shape.vocabulary * (FLOAT * copies + kept)


def chunk_positions(shape: ModelShape, batch: BatchShape, strategy: Strategy) -> int:
    """Return the positions whose logits live at once: all, or the most that logits_mib allows."""
    allowed = strategy.logits_mib * 2**20 // (FLOAT * shape.vocabulary)
    return min(batch.positions, max(1, allowed))


def chunked_logits(
    shape: ModelShape,
    batch: BatchShape,
    strategy: Strategy,
    *,
    entropy_learns: bool = False,
    head_learns: bool,
) -> float:
    """Return the bytes of logits that come by chunks of T positions, and of what goes with them.

    Tensors of T x V: 2 (logits, and exp of them), 3 with gradients of an entropy; with bfloat16
    products 2.5, whatever is asked. Where the output layer learns, the gradients of its weight add
    up beside them, 4VD; without autocast three such tensors live at the end of a chunk, with it
    two. The hidden states of all positions: 4D each.
    """
    half = strategy.compute_bytes == HALF
    tensors = 2.5 if half else 2 + entropy_learns
    chunk = FLOAT * tensors * chunk_positions(shape, batch, strategy) * shape.vocabulary
    hidden = FLOAT * batch.positions * shape.hidden
    if not head_learns:
        return chunk + hidden
    weight = FLOAT * shape.vocabulary * shape.hidden
    return max(chunk + weight, (2 if half else 3) * weight) + hidden


def kv_bytes_per_token(shape: ModelShape, strategy: Strategy) -> int:
    """Return the bytes of one token's keys and values over all layers, on one device.

    2 n (kv width) e bytes. Heads are divided among devices, never split.
    """
    heads = -(-shape.kv_heads // strategy.sampler_over)
    return 2 * shape.layers * heads * shape.head_width * strategy.compute_bytes


def frozen_weights(parameters: int, embedding: int, strategy: Strategy) -> tuple[float, float]:
    """Return the bytes of a frozen model on the device and in host memory.

    4P bytes; with matrices in bfloat16 2P and 2 more for each parameter of the token embedding.
    Sharded or offloaded: a share on each device or its host, and on the device the parameters that
    are gathered at once.
    """
    size = strategy.frozen_bytes
    whole = size * parameters + (FLOAT - size) * embedding
    if strategy.frozen == "whole":
        return whole, 0.0
    gathered = whole * min(1.0, LIVE_PARAMETERS / parameters)
    share = whole / strategy.devices
    return (gathered + share, 0.0) if strategy.frozen == "sharded" else (gathered, share)

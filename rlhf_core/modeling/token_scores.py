"""Log-probabilities of response tokens, with the output layer by chunks of tokens.

Whole logits take 4 bytes for each token and entry of the vocabulary, several times over. Where they
exceed a limit, the backbone runs once, and the output layer runs on one chunk of real response
tokens after the other. A backward pass computes each chunk's logits again (checkpointing), so that
those of one chunk are in memory at a time. The model itself makes the logits from hidden states,
so that soft caps and scales of a family apply.
Axes: B rows, L tokens, R response tokens, T real response tokens of all rows, D hidden, V
vocabulary.
"""

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel
from transformers.utils import ModelOutput

from rlhf_core.batching.batch import Batch
from rlhf_core.batching.collective import gathered
from rlhf_core.batching.packing import PackedBatch, reading, unpacked
from rlhf_core.engine.deepspeed import is_sharded
from rlhf_core.objectives.closed_form import logprobs_and_entropy
from rlhf_core.objectives.losses import tempered, token_entropy, token_logprobs

FLOAT = 4  # bytes of a number in float32


@dataclass(frozen=True)
class TokenQuery:
    """The numbers that are asked for at each response token, at a sampling temperature."""

    temperature: float = 1.0
    entropy: bool = False
    greedy: bool = False


class TokenScores(NamedTuple):
    """The numbers of a language model at response tokens; those not asked for are None.

    Values at padding have no meaning.
    """

    logprobs_BR: Tensor  # of the response's own token, float32 nats
    entropy_BR: Tensor | None = None  # over the vocabulary, nats
    greedy_BR: Tensor | None = None  # bool: the token has the largest logit
    values_BR1: Tensor | None = None  # of a value head on the same trunk


def scores_of(logits_BRV: Tensor, ids_BR: Tensor, query: TokenQuery) -> TokenScores:
    """Return what is asked of whole logits."""
    greedy_BR = logits_BRV.argmax(-1) == ids_BR if query.greedy else None
    logits_BRV = tempered(logits_BRV, query.temperature)
    logprobs_BR = token_logprobs(logits_BRV, ids_BR)
    entropy_BR = token_entropy(logits_BRV) if query.entropy else None
    return TokenScores(logprobs_BR, entropy_BR, greedy_BR)


def read_tokens(
    model: PreTrainedModel,
    batch: Batch,
    row: Batch | PackedBatch,
    query: TokenQuery | None,
    *,
    limit: int,
    inputs: dict[str, Tensor] | None = None,
) -> Tensor | TokenScores:
    """Return what is asked at each response token of a batch; without a query, whole logits.

    row: what the model reads, the batch itself or the same sequences packed. limit, inputs: as of
    `token_scores`.
    """
    mask_BR = batch.response_mask_BR
    if query is None:
        logits = response_logits(model, row, inputs)
        return logits if row is batch else unpacked(logits[0], mask_BR)
    found = token_scores(model, row, query, limit=limit, inputs=inputs)
    if row is batch:
        return found
    values = (None if one is None else unpacked(one[0], mask_BR) for one in found[:3])
    logprobs_BR, *others = values
    assert logprobs_BR is not None  # each query asks for them
    return TokenScores(logprobs_BR, *others)


def response_logits(
    model: PreTrainedModel, batch: Batch | PackedBatch, inputs: dict[str, Tensor] | None = None
) -> Tensor:
    """Return logits (B, R, V): column t predicts response token t; inputs: instead of the ids."""
    if isinstance(batch, PackedBatch):
        return _run(model, batch, inputs, keep=batch.predicting_index_T).logits
    return _run(model, batch, inputs, keep=batch.response_mask_BR.shape[1] + 1).logits[:, :-1]


def token_scores(
    model: PreTrainedModel,
    batch: Batch | PackedBatch,
    query: TokenQuery,
    *,
    limit: int,
    inputs: dict[str, Tensor] | None = None,
) -> TokenScores:
    """Return what is asked at each response token.

    limit: bytes of one float32 tensor of logits. Above it, the output layer runs by chunks.
    inputs: instead of the ids.
    """
    chunks = _chunks(model, batch, limit)
    if not chunks:
        return scores_of(response_logits(model, batch, inputs), batch.response_ids_BR, query)
    with last_hidden(model) as kept:
        _run(model, batch, inputs, keep=1)  # logits of one token, which nothing uses
    mask_BR, output = batch.response_mask_BR, kept[0]
    hidden_TD = _predicting(output.last_hidden_state, batch)
    ids_T = batch.response_ids_BR[mask_BR]
    parts = [
        _chunk_scores(model, type(output), hidden, ids, query)
        for hidden, ids in zip(
            hidden_TD.tensor_split(chunks), ids_T.tensor_split(chunks), strict=True
        )
    ]
    logprobs_BR, *others = (_of_chunks(values, mask_BR) for values in zip(*parts, strict=True))
    assert logprobs_BR is not None  # each chunk has them
    return TokenScores(logprobs_BR, *others)


def _run(
    model: PreTrainedModel,
    batch: Batch | PackedBatch,
    inputs: dict[str, Tensor] | None,
    *,
    keep: int | Tensor,
) -> Any:
    """Run the model on a batch; keep: its `logits_to_keep`."""
    read = inputs or {"input_ids": batch.ids_BL}
    if isinstance(batch, Batch):
        read = read | {"attention_mask": batch.mask_BL.long()}
    read = read | {"position_ids": batch.position_ids_BL}
    with reading(batch):
        return model(**read, logits_to_keep=keep, use_cache=False)


def _chunks(model: PreTrainedModel, batch: Batch | PackedBatch, limit: int) -> int:
    """Return the number of chunks, 0 for whole logits.

    Logits stay whole within the limit, and where the output layer learns from fewer positions than
    its width: the gradient of its weight, of which chunks hold two or three, is larger than they
    are. The padding of a batch has logits only where they are whole. Every rank gets the same
    number if the output layer is sharded: each use of it waits for all ranks.
    """
    if model.base_model is model:  # no backbone whose output could be kept
        return 0
    mask_BR, config = batch.response_mask_BR, model.config.get_text_config()
    positions = mask_BR.numel() + (0 if isinstance(batch, PackedBatch) else len(mask_BR))
    most = limit // (FLOAT * config.vocab_size)
    learns = torch.is_grad_enabled() and _output_layer_learns(model)
    wide = positions > most and not (learns and positions <= config.hidden_size)
    counts = [int(wide), math.ceil(int(mask_BR.sum()) / max(1, most))]
    if is_sharded(model):
        counts = [max(of_ranks) for of_ranks in zip(*gathered(counts), strict=True)]
    return counts[1] if counts[0] else 0


def _output_layer_learns(model: PreTrainedModel) -> bool:
    return any(p.requires_grad for p in model.get_output_embeddings().parameters())


def _predicting(hidden_BLD: Tensor, batch: Batch | PackedBatch) -> Tensor:
    """Return the hidden states from which each real response token is predicted, (T, D)."""
    if isinstance(batch, PackedBatch):
        return hidden_BLD[0, batch.predicting_index_T]
    R = batch.response_mask_BR.shape[1]
    return hidden_BLD[:, -(R + 1) : -1][batch.response_mask_BR]


def _of_chunks(parts: tuple[Tensor | None, ...], mask_BR: Tensor) -> Tensor | None:
    """Return the numbers of all chunks as one tensor, (B, R), 0 at padding."""
    found = [part for part in parts if part is not None]
    if not found:
        return None
    values_T = torch.cat(found)
    return values_T.new_zeros(mask_BR.shape).masked_scatter(mask_BR, values_T)


def _chunk_scores(
    model: PreTrainedModel,
    kind: type[ModelOutput],
    hidden_TD: Tensor,
    ids_T: Tensor,
    query: TokenQuery,
) -> tuple[Tensor | None, ...]:
    """Return the first fields of TokenScores, (T,) each; kind: that of the backbone's output."""

    def scores(hidden_TD: Tensor) -> tuple[Tensor | None, ...]:
        logits_TV = _logits_of(model, kind(last_hidden_state=hidden_TD[None]))[0]
        greedy_T = logits_TV.argmax(-1) == ids_T if query.greedy else None
        logprobs_T, entropy_T = logprobs_and_entropy(
            logits_TV, ids_T, temperature=query.temperature, entropy=query.entropy
        )
        return logprobs_T, entropy_T, greedy_T

    if not torch.is_grad_enabled():
        return scores(hidden_TD)
    # under ZeRO 3 the weights are empty when recomputed tensors are compared with the first ones
    check = "none" if is_sharded(model) else "default"
    return checkpoint(
        scores, hidden_TD, use_reentrant=False, preserve_rng_state=False, determinism_check=check
    )


def _logits_of(model: PreTrainedModel, output: ModelOutput) -> Tensor:
    """Return the logits that the model makes of its backbone's output.

    With autocast and gradients each chunk casts the output layer's weight by itself, so that the
    chunks' gradients add up in float32.
    """
    hidden = output.last_hidden_state
    owner, name = _backbone(model)
    backbone = owner.get_submodule(name)
    device, cached = hidden.device.type, not torch.is_grad_enabled()
    owner._modules[name] = _Answer(backbone, output)
    try:
        with torch.autocast(
            device,
            torch.get_autocast_dtype(device),
            enabled=torch.is_autocast_enabled(device),
            cache_enabled=cached,
        ):
            # without module hooks: those of a router's loss belong to whole passes
            return model.forward(inputs_embeds=hidden, use_cache=False).logits
    finally:
        owner._modules[name] = backbone


def _backbone(model: PreTrainedModel) -> tuple[nn.Module, str]:
    """Return the module that owns what gives hidden states to the output layer, and its name."""
    if isinstance(getattr(model.base_model, "decoder", None), nn.Module):
        return model.base_model, "decoder"  # OPT's language model calls this part directly
    return model, model.base_model_prefix


class _Answer(nn.Module):
    """A stand-in for a backbone that gives an output computed before."""

    def __init__(self, backbone: nn.Module, output: ModelOutput):
        super().__init__()
        self._given = (backbone, output)  # in a tuple: the backbone is no part of this module

    def forward(self, *_: object, **__: object) -> ModelOutput:
        """Return the output."""
        return self._given[1]

    def __getattr__(self, name: str) -> Any:
        """Return the backbone's attribute, such as a scale that its family keeps there."""
        return getattr(self.__dict__["_given"][0], name)


@contextlib.contextmanager
def last_hidden(model: PreTrainedModel) -> Iterator[list[ModelOutput]]:
    """Keep what the backbone gives to the output layer.

    The model itself makes the logits, in its own way.
    """
    kept: list[ModelOutput] = []
    owner, name = _backbone(model)
    handle = owner.get_submodule(name).register_forward_hook(
        lambda module, inputs, output: kept.append(output)
    )
    try:
        yield kept
    finally:
        handle.remove()

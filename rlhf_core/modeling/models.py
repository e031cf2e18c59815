"""Models in the ecosystem's own formats, and the two forward passes that the pipeline needs."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypedDict

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from rlhf_core.batching.batch import Batch, device
from rlhf_core.batching.packing import PackedBatch, reading, unpacked
from rlhf_core.config import LOGITS_MIB, FrozenPlacement
from rlhf_core.engine.base import Engine, Forward, WrappedModel
from rlhf_core.engine.deepspeed import shared_out
from rlhf_core.errors import BadInput
from rlhf_core.file_modes import follow_umask
from rlhf_core.modeling.classifier import classifier_class, require_family, require_scalar_head
from rlhf_core.modeling.half import (
    Autocasting,
    computed_dtype,
    in_bfloat16,
    number_types,
    round_to_bfloat16,
)
from rlhf_core.modeling.lora import HEAD, merge_adapter
from rlhf_core.modeling.mapped_weights import has_rounded_buffers, never_written, type_in_files
from rlhf_core.modeling.token_scores import TokenQuery, TokenScores, read_tokens
from rlhf_core.modeling.trainable import load_config, require_complete
from rlhf_core.ranks import is_rank_zero

_PICKLES = ("*.bin", "*.pt", "*.pth", "*.pkl", "*.ckpt")


class PolicyModel(WrappedModel):
    """A causal language model that reads a batch, and answers at response tokens only.

    logits_mib: MiB of one float32 tensor of logits, above which token scores come by chunks.
    """

    def __init__(self, model: PreTrainedModel, *, logits_mib: int = LOGITS_MIB):
        super().__init__(model)
        self._limit = logits_mib * 2**20

    def forward(
        self, batch: Batch, noise_BLD: Tensor | None = None, *, query: TokenQuery | None = None
    ) -> Tensor | TokenScores:
        """Return what `query` asks; without one, whole logits (B, R, V).

        Column t of the logits predicts response token t. noise_BLD: added to the embeddings.
        """
        row, inputs = self.row_of(batch), None
        if noise_BLD is not None:
            noise = noise_BLD if row is batch else noise_BLD[batch.mask_BL][None]
            inputs = {"inputs_embeds": self.model.get_input_embeddings()(row.ids_BL) + noise}
        return read_tokens(self.model, batch, row, query, limit=self._limit, inputs=inputs)


class ScalarModel(WrappedModel):
    """A backbone with a scalar head at every token: the reward model, and the critic from it."""

    def forward(self, batch: Batch) -> Tensor:
        """Return scores (B, R + 1), float32.

        Column t is the head after t response tokens; column 0 after the prompt.
        """
        row = self.row_of(batch)
        return scalar_scores(self.model.score, hidden_states(self.model, row), batch, row)


def hidden_states(model: PreTrainedModel, row: Batch | PackedBatch) -> Tensor:
    """Return the backbone's last hidden states, (B, L, D); those of a packed row are (1, L, D)."""
    mask = {"attention_mask": row.mask_BL.long()} if isinstance(row, Batch) else {}
    with reading(row):
        return model.base_model(
            input_ids=row.ids_BL, position_ids=row.position_ids_BL, use_cache=False, **mask
        ).last_hidden_state


def scalar_scores(
    head: nn.Module, hidden_BLD: Tensor, batch: Batch, row: Batch | PackedBatch
) -> Tensor:
    """Return a scalar head's float32 scores after prompt and each response token, (B, R + 1).

    The head is computed in float32 also under autocast: bfloat16 has 8 significant bits, so that
    many unequal sequences would get equal scores.
    hidden_BLD: as from hidden_states, of `row`: the batch itself, or the same sequences packed.
    """
    R = batch.response_mask_BR.shape[1]
    with torch.autocast(hidden_BLD.device.type, enabled=False):
        if isinstance(row, PackedBatch):
            scores_L = head(hidden_BLD[0].float()).squeeze(-1)
            return unpacked(scores_L[row.token_index_N], batch.mask_BL)[:, -(R + 1) :]
        return head(hidden_BLD[:, -(R + 1) :].float()).squeeze(-1)


def final_scores(scores_BR1: Tensor, response_mask_BR: Tensor) -> Tensor:
    """Return the score after the last real response token, (B,)."""
    return scores_BR1.gather(1, response_mask_BR.sum(-1, keepdim=True)).squeeze(1)


class FrozenModel(TypedDict):
    """The options of `inference`, the same for all models of a stage."""

    dtype: str
    frozen: FrozenPlacement
    weights: str | None


def inference(
    module: nn.Module,
    *,
    dtype: str,
    frozen: FrozenPlacement = "whole",
    weights: str | None = "float32",
) -> Forward:
    """Return the forward pass of a model that does not learn.

    It makes no gradients, and its matrix products are in `dtype`, or in bfloat16 where its weights
    are. weights: the number type of its matrices; None: dtype.
    frozen: 'sharded' divides its weights among the ranks, all of which then make the same passes.
    """
    half = (weights or dtype) == "bfloat16"
    types = number_types(module.requires_grad_(False), half=half, experts=weights is not None)
    module = Autocasting(module, on=computed_dtype(dtype, weights) == "bfloat16")
    module = shared_out(module, types) if frozen == "sharded" else _placed(module, types)

    def forward(*inputs: Any, **options: Any) -> Any:
        with torch.no_grad():
            return module(*inputs, **options)

    return forward


def _placed(module: nn.Module, types: Mapping[nn.Parameter, torch.dtype]) -> nn.Module:
    """Put a model on the device, weight by weight in its number type.

    On a CPU weights that have it stay in their files, which the processes of a host share.
    """
    for weight, kind in types.items():
        weight.data = weight.data.to(device(), kind)
    never_written(module)
    return module.to(device())


def load_policy(path: Path, *, logits_mib: int = LOGITS_MIB, mapped: bool = False) -> PolicyModel:
    """Load a causal language model in float32, dropout off; logits_mib: as for PolicyModel.

    mapped: leave the weights in their files, in the files' number type, for an engine or
    `inference` to take.
    Raises BadInput for a folder without safetensors.
    """
    return PolicyModel(_load(AutoModelForCausalLM, path, mapped=mapped), logits_mib=logits_mib)


def load_scalar(
    path: Path, *, new_head: bool = False, seed: int = 0, tokens: int = 0, mapped: bool = False
) -> ScalarModel:
    """Load a one-label classifier in float32, dropout off.

    A sequence classifier, or a token classifier (a token-level reward model).
    new_head: `path` is a language model whose backbone is taken; the head is drawn from
    N(0, 1 / (D + 1)) with `seed` (Stiennon et al. 2020, arXiv:2009.01325, app. B), and it gets
    embeddings, of 0, for `tokens` tokens if it has fewer. mapped: as for load_policy.
    Raises BadInput for a folder that holds no one-label classifier, unless new_head.
    """
    config = load_config(path)
    if not new_head and config.num_labels != 1:
        raise BadInput(
            f"{path} has {config.num_labels} labels; a reward model has one (num_labels=1)"
        )
    if new_head:
        require_family(config, path)
    drawn = (f"{HEAD}.weight",) if new_head else ()
    kind = classifier_class(config)
    model = _load(kind, path, mapped=mapped, drawn=drawn, num_labels=1)
    require_scalar_head(model, path)
    if not new_head:
        return ScalarModel(model)
    width = model.score.weight.shape[-1]
    generator = torch.Generator().manual_seed(seed)
    model.score.weight.data = torch.randn(1, width, generator=generator) / (width + 1) ** 0.5
    _embed(model, tokens)
    return ScalarModel(model)


def _embed(model: PreTrainedModel, tokens: int) -> None:
    """Give the model embeddings for so many tokens; those of new ones are 0."""
    rows = len(model.get_input_embeddings().weight)
    if rows >= tokens:
        return
    with torch.random.fork_rng(devices=[]):  # new rows are drawn first
        model.resize_token_embeddings(tokens, mean_resizing=False)
    model.get_input_embeddings().weight.data[rows:] = 0.0


def _load(
    kind: type[PreTrainedModel],
    path: Path,
    *,
    mapped: bool = False,
    drawn: tuple[str, ...] = (),
    num_labels: int | None = None,
) -> PreTrainedModel:
    """Load a model in float32, or mapped; drawn: weights that the folder need not have."""
    if not list(path.glob("*.safetensors")):
        pickles = [file.name for pattern in _PICKLES for file in path.glob(pattern)]
        found = f"only {pickles}, which can run code when loaded" if pickles else "none"
        raise BadInput(
            f"{path} holds no *.safetensors ({found}); save the model with save_pretrained"
        )
    config = load_config(path)
    for name in list(vars(config)):
        if name.endswith(("dropout", "dropout_rate")) or name.endswith("pdrop"):
            setattr(config, name, 0.0)
    if num_labels is not None:
        config.num_labels = num_labels
    try:
        model, found = kind.from_pretrained(
            path,
            config=config,
            dtype=type_in_files(path) if mapped else torch.float32,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise BadInput(f"{path} cannot be loaded as {kind.__name__}: {error}") from None
    require_complete(path, found, drawn=drawn)
    if mapped and has_rounded_buffers(model):
        return _load(kind, path, drawn=drawn, num_labels=num_labels)
    return model


def tied_names(path: Path) -> frozenset[str]:
    """Return the names of tied weights that save_pretrained leaves out of the saved file."""
    config = load_config(path)
    with torch.device("meta"):  # names alone, no memory
        return frozenset(AutoModelForCausalLM.from_config(config).all_tied_weights_keys)


def finish(engine: Engine, *, dtype: str) -> None:
    """Make a trained model what is saved of it, in place, so that the saved weights are measured.

    An adapter is merged, and the weights get values of dtype. All ranks take part.
    """
    engine.release()
    finish_model(engine.module, dtype=dtype)


def finish_model(model: WrappedModel, *, dtype: str) -> None:
    """Merge a model's adapter, and round its weights to values of dtype, in place."""
    merge_adapter(model.model)
    if dtype == "bfloat16":
        round_to_bfloat16(model.model)


def save_model(
    model: WrappedModel,
    tokenizer: PreTrainedTokenizerBase,
    path: Path,
    *,
    weights: dict[str, Tensor] | None = None,
    dtype: str = "float32",
) -> None:
    """Write model, tokenizer and chat template in transformers' format, safetensors only.

    An adapter is merged, and weights are rounded to dtype, in place. Rank 0 writes for all ranks.
    weights: those of a model that does not hold its own, by name.
    """
    finish_model(model, dtype=dtype)
    if not is_rank_zero():
        return
    for config in (model.model.config, model.model.config.get_text_config()):
        config.pad_token_id = tokenizer.pad_token_id
    _stop_at_end_of_turn(model.model, tokenizer.eos_token_id)
    if dtype == "bfloat16":
        named = model.model.state_dict() if weights is None else weights
        weights = in_bfloat16(model.model, named)
    model.model.save_pretrained(path, state_dict=weights)
    if dtype == "bfloat16":  # transformers writes that of the tensors in memory
        model.model.config.dtype = dtype
        model.model.config.save_pretrained(path)
    tokenizer.save_pretrained(path)
    follow_umask(path)


def _stop_at_end_of_turn(model: PreTrainedModel, eos_id: int) -> None:
    """Add the end of turn to the ids at which the saved generation_config stops."""
    config = getattr(model, "generation_config", None)  # a classifier does not generate
    if config is None:
        return
    listed = config.eos_token_id
    ids = listed if isinstance(listed, list) else [] if listed is None else [listed]
    if eos_id not in ids:
        config.eos_token_id = [eos_id, *ids] if ids else eos_id

"""Try on a model folder if packed rows keep its sequences apart, before anything is trained.

A few layers of the model's own weights suffice: one of each kind of attention. They are read from
the mapped files, in float32 on the CPU.
"""

from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedModel

from rlhf_core.batching.batch import Batch
from rlhf_core.batching.packing import packed, reading, unpacked
from rlhf_core.errors import BadInput
from rlhf_core.modeling.classifier import classifier_class
from rlhf_core.modeling.mapped_weights import type_in_files
from rlhf_core.modeling.packed_attention import (
    choose_attention,
    require_separation,
    require_shared_prompts,
    require_whole_attention,
)
from rlhf_core.modeling.trainable import is_classifier, load_config, quiet


def require_separate_rows(folder: Path, *, share_prompts: bool = False) -> None:
    """Raise BadInput unless the model in a folder reads packed rows as sequences of their own.

    share_prompts: also where neighbours share a prompt. Where its first layers do not run by
    themselves, all of them are tried.
    """
    try:
        try:
            _try(folder, whole=False, share_prompts=share_prompts)
        except (BadInput, MemoryError, OSError):
            raise
        except Exception as error:  # each family builds and reads its layers in ways of its own
            print(f"{folder}: its first layers do not run by themselves ({error})", flush=True)
            _try(folder, whole=True, share_prompts=share_prompts)
    except (BadInput, OSError) as error:
        raise BadInput(f"{folder}: {error}") from None
    except MemoryError:
        raise
    except Exception as error:
        raise BadInput(
            f"{folder}: packing = true: the model does not read a packed row"
            f" ({type(error).__name__}: {error}). Set packing = false."
        ) from error


def layers_to_try(config: PretrainedConfig) -> int:
    """Return how many of the first layers have every kind of attention that the model has."""
    kinds = getattr(config, "layer_types", None) or getattr(config, "layers_block_type", None)
    if not kinds:
        return 1
    return 1 + max(list(kinds).index(kind) for kind in set(kinds))


def _try(folder: Path, *, whole: bool, share_prompts: bool) -> None:
    config = load_config(folder)
    if not whole:
        _keep_first_layers(config.get_text_config())
    backbone = _load(folder, config).base_model
    require_whole_attention(backbone)
    choose_attention(backbone, flash=False)
    if share_prompts:
        require_shared_prompts(backbone)
    embeddings = backbone.get_input_embeddings()
    _to_float32(backbone, but=embeddings)

    def hidden(batch: Batch) -> Tensor:
        """Return hidden states at the batch's places, (B, L, D)."""
        batch = batch.to(torch.device("cpu"))
        row = packed(batch, share_prompts=share_prompts)
        with reading(row):
            found = backbone(
                inputs_embeds=embeddings(row.ids_BL).float(),
                position_ids=row.position_ids_BL,
                use_cache=False,
            )
        return unpacked(found.last_hidden_state[0, row.token_index_N], batch.mask_BL)

    require_separation(hidden, dtype="float32", share_prompts=share_prompts)


def _keep_first_layers(config: PretrainedConfig) -> None:
    count = layers_to_try(config)
    for name in ("layer_types", "layers_block_type"):
        if isinstance(vars(config).get(name), list):
            setattr(config, name, getattr(config, name)[:count])
    config.num_hidden_layers = count


def _load(folder: Path, config: PretrainedConfig) -> PreTrainedModel:
    kind = classifier_class(config) if is_classifier(config) else AutoModelForCausalLM
    with quiet():  # of the layers that are left out
        model: PreTrainedModel = kind.from_pretrained(
            folder,
            config=config,
            dtype=type_in_files(folder),
            use_safetensors=True,
            trust_remote_code=False,
        )
    return model.eval()


def _to_float32(module: nn.Module, *, but: nn.Module) -> None:
    left = {id(weight) for weight in but.parameters()}
    for weight in module.parameters():
        if id(weight) not in left:
            weight.data = weight.data.float()

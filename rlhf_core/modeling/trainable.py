"""The checks that a folder holds a whole language model that can be trained, before it is.

Neither reads the weights themselves: the first needs config.json alone, the second also the names
and shapes in the safetensors files.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import transformers
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
)
from transformers.utils import logging

from rlhf_core.errors import BadInput
from rlhf_core.modeling.classifier import classifier_class
from rlhf_core.modeling.requirements import read_config

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

SHOWN = 3  # names of weights in a message
# the end of a reward model's name in config.json's architectures
CLASSIFIERS = ("ForSequenceClassification", "ForTokenClassification")


def load_config(folder: Path) -> "PretrainedConfig":
    """Return a model folder's configuration; code of the model's own never runs.

    Raises BadInput for a family that transformers does not have, and for values that it refuses.
    """
    values = read_config(folder)
    family = values.get("model_type")
    if family not in CONFIG_MAPPING_NAMES:
        raise BadInput(_unknown_family(folder, family, values.get("auto_map")))
    try:
        return AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:  # each family checks its values with errors of its own
        raise BadInput(
            f"{folder / 'config.json'} is not a usable configuration of the family {family!r}"
            f" ({type(error).__name__}: {error}); copy the model again, or save it with"
            f" transformers {transformers.__version__}"
        ) from error


def _unknown_family(folder: Path, family: object, code: object) -> str:
    found = f"{folder} is of the family {family!r}" if family else f"{folder} names no model_type"
    own = (
        ", and names Python code of the model's own (auto_map), which is never run"
        " (trust_remote_code=False)"
        if code
        else ""
    )
    return (
        f"{found}, which transformers {transformers.__version__} does not have{own}; expected a"
        " family of transformers. Take a release of the model that transformers reads by itself"
    )


def require_language_model(folder: Path) -> None:
    """Raise BadInput unless config.json describes a causal language model that can be trained.

    That is a family of transformers with a causal head, which reads from left to right, and whose
    weights are not quantized.
    """
    config = load_config(folder)
    family = config.model_type
    if family not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        raise BadInput(
            f"{folder} is of the family {family!r}, for which transformers has no causal language"
            " model; expected a model that generates text from left to right"
        )
    if family in MODEL_FOR_MASKED_LM_MAPPING_NAMES and getattr(config, "is_decoder", None) is False:
        raise BadInput(
            f"{folder} is an encoder of the family {family!r}, in which a token reads those after"
            " it; expected a model that generates text from left to right (a causal language"
            " model)"
        )
    if quantized := getattr(config, "quantization_config", None):
        method = quantized.get("quant_method") if isinstance(quantized, dict) else None
        raise BadInput(
            f"{folder} holds quantized weights ({method or quantized}), which cannot be trained;"
            " expected float32, bfloat16 or float16. Take the release that is not quantized"
        )


def require_weights(folder: Path) -> None:
    """Raise BadInput unless the safetensors hold each weight of the model, in its shape.

    transformers would draw a missing weight at random. Reads names and shapes alone.
    """
    structure_of(folder)


def is_classifier(config: "PretrainedConfig") -> bool:
    """Return True for the configuration of a reward model: a sequence or token classifier."""
    return any(name.endswith(CLASSIFIERS) for name in config.architectures or [])


def structure_of(folder: Path) -> "PreTrainedModel":
    """Return the language model, or reward model, without its weights: shapes alone, no memory.

    Raises BadInput as require_weights does.
    """
    config = load_config(folder)
    kind = classifier_class(config) if is_classifier(config) else AutoModelForCausalLM
    try:
        with quiet():
            model, found = kind.from_pretrained(
                folder,
                config=config,
                device_map="meta",
                use_safetensors=True,
                trust_remote_code=False,
                output_loading_info=True,
                ignore_mismatched_sizes=True,
            )
    except Exception as error:  # transformers and safetensors raise a dozen kinds
        raise BadInput(
            f"{folder} cannot be loaded as {kind.__name__} ({type(error).__name__}: {error}); copy"
            " the model again, or save it with save_pretrained"
        ) from error
    require_complete(folder, found)
    return model


def require_complete(folder: Path, found: dict, *, drawn: tuple[str, ...] = ()) -> None:
    """Raise BadInput when weights were missing or of another shape.

    found: transformers' report of what it loaded (output_loading_info). drawn: names that may be
    missing.
    """
    if missing := sorted({*found["missing_keys"]} - {*drawn}):
        raise BadInput(
            f"{folder} lacks {len(missing)} of the model's weights ({_some(missing)}); they would"
            " be drawn at random. Copy all its *.safetensors again"
        )
    if other := sorted(found["mismatched_keys"], key=str):
        name, saved, expected = other[0]
        raise BadInput(
            f"{folder} holds {name} in the shape {list(saved)}, its config.json says"
            f" {list(expected)}; copy weights and config.json from the same model"
        )


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep transformers' report of missing weights, and its progress bar, off standard error."""
    verbosity, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bar:
            logging.enable_progress_bar()


def _some(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more

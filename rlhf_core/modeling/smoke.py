"""Load a model folder as its users do and run it once.

A folder with all its files may still hold no model.
"""

from pathlib import Path
from typing import Literal

import torch
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification
from transformers.utils.logging import disable_progress_bar

from rlhf_core.errors import BadInput
from rlhf_core.modeling.ensemble import member_folder, offsets_of
from rlhf_core.modeling.models import load_tokenizer

TEXT = "How do I boil an egg?"
CLASSES = {"policy": AutoModelForCausalLM, "reward": AutoModelForSequenceClassification}


def smoke(kind: Literal["policy", "reward"], folder: Path) -> None:
    """Read a few tokens with the model in `folder`, in the type its weights are stored in.

    Raises BadInput when it does not load, lacks weights, or gives a value that is not finite.
    """
    disable_progress_bar()
    members = len(offsets_of(folder)) if kind == "reward" else 1
    for number in range(1, members + 1):
        _run_once(kind, member_folder(folder, number))


def _run_once(kind: str, folder: Path) -> None:
    ids = load_tokenizer(folder)(TEXT, return_tensors="pt")["input_ids"]
    try:
        model, report = CLASSES[kind].from_pretrained(
            folder,
            dtype="auto",
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
        if report["missing_keys"]:
            raise BadInput(
                f"{folder} lacks the weights {sorted(report['missing_keys'])[:3]}; expected every"
                " one."
            )
        with torch.inference_mode():
            logits = model.eval()(input_ids=ids).logits
    except (OSError, ValueError, RuntimeError, IndexError, SafetensorError) as error:
        raise BadInput(
            f"{folder} cannot be loaded and run as {CLASSES[kind].__name__}: {error}"
        ) from None
    if not torch.isfinite(logits).all():
        raise BadInput(
            f"{folder} gives values that are not finite; expected finite logits for {TEXT!r}."
        )

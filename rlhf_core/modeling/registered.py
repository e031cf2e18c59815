"""Open the folder of a registered model, where its code runs without this project's registry."""

from pathlib import Path

from transformers import PreTrainedTokenizerBase

from rlhf_core.data.tokenizer import load_tokenizer
from rlhf_core.digest import digest_path
from rlhf_core.errors import BadInput
from rlhf_core.modeling.pickles import pickle_files
from rlhf_core.template_date import template_date


def open_registered(folder: Path, digest: str | None, day: str | None) -> PreTrainedTokenizerBase:
    """Return the tokenizer of a registered folder, after a check of the folder's bytes.

    digest: that of the registered bytes. day: the date that the chat template prints, YYYY-MM-DD;
    None where the template has its own. Raises BadInput for pickles and for other bytes.
    """
    if found := pickle_files(folder):
        raise BadInput(
            f"{folder} holds {found}, which may run code when loaded; expected safetensors only"
        )
    found_digest = digest_path(folder)
    if digest and found_digest != digest:
        raise BadInput(
            f"{folder} has digest {found_digest[:12]}, registered was {digest[:12]}; fetch the"
            " version again"
        )
    with template_date(day):
        return load_tokenizer(folder)

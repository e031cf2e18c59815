"""Padding tokens of reward models, told from content by their id alone.

transformers' sequence classifiers read the score at the last token that is not padding. Where the
padding token is the end of turn too, they read it one token early.
"""

import re
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from rlhf_core.data.special_tokens import encode_text
from rlhf_core.data.tokenizer import load_tokenizer
from rlhf_core.errors import BadInput
from rlhf_core.modeling.requirements import embedding_rows, read_config
from rlhf_core.modeling.vocabulary import rendered_ids

NAME = "<|pad|>"
_UNKNOWN = "\U0010fffd \ue000 \u2603 \u9f98"  # characters that few vocabularies have
_RESERVED = re.compile(r"(?i)^(?!.*(image|video|vision|audio)).*pad")  # <|finetune_right_pad_id|>


def give_own_pad(tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Give the tokenizer a padding token that no conversation holds; one that it has stays.

    Else it is a token that the vocabulary reserves for padding, or a new one. The model in `folder`
    may lack an embedding for the new one: see load_scalar.
    """
    if holds_no_pad(tokenizer):
        return
    rendered, rows = rendered_ids(tokenizer), embedding_rows(folder)
    for id, token in sorted(tokenizer.added_tokens_decoder.items()):
        usable = token.special and id not in rendered and (rows is None or id < rows)
        if usable and _RESERVED.match(token.content):
            tokenizer.pad_token = token.content
            return
    known, name, number = tokenizer.get_vocab(), NAME, 1
    while name in known:
        number += 1
        name = f"<|pad_{number}|>"
    tokenizer.add_special_tokens({"pad_token": name})


def holds_no_pad(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Return True if no conversation holds the padding token, so that it marks padding alone."""
    pad = tokenizer.pad_token_id
    if pad is None or pad in rendered_ids(tokenizer):
        return False
    return pad != tokenizer.unk_token_id or pad not in encode_text(tokenizer, _UNKNOWN)


def require_own_pad(folder: Path) -> None:
    """Raise BadInput when a reward model's padding token may end a conversation.

    Its scores in transformers would then not be those in this pipeline. A model without one is
    read right: transformers scores one conversation at a time.
    """
    config = read_config(folder)
    named = (config.get("text_config") or {}).get("pad_token_id", config.get("pad_token_id"))
    kinds = config.get("architectures") or []
    if named is None or not any(kind.endswith("ForSequenceClassification") for kind in kinds):
        return
    tokenizer = load_tokenizer(folder)
    if named == tokenizer.pad_token_id and holds_no_pad(tokenizer):
        return
    token = tokenizer.convert_ids_to_tokens(named)
    raise BadInput(
        f"the reward model {folder} pads with {token!r} (config.json: pad_token_id {named}), its"
        f" tokenizer with {tokenizer.pad_token!r}, and a conversation ends with"
        f" {tokenizer.eos_token!r}; expected one padding token that no conversation holds, because"
        " transformers reads the score at the last token that is not padding."
        f" {remedy()}"
    )


def remedy() -> str:
    """Return what to do with a reward model whose padding is not told from content."""
    return (
        f"Call tokenizer.add_special_tokens({{'pad_token': '{NAME}'}}),"
        " model.resize_token_embeddings(len(tokenizer)), set model.config.pad_token_id ="
        " tokenizer.pad_token_id, and save both again."
    )

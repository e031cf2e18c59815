"""The check that a model has an embedding for each token that its tokenizer gives."""

from pathlib import Path

from transformers import PreTrainedTokenizerBase

from rlhf_core.data.render import render_prompt
from rlhf_core.errors import BadInput
from rlhf_core.modeling.requirements import embedding_rows

# one turn of each role: what a template and its special tokens make of it
TURNS = [{"role": role, "content": "a"} for role in ("user", "assistant", "user")]


def require_embeddings(tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Raise BadInput when text may give a token for which the model in `folder` has no embedding.

    A special token that neither rendering nor padding writes may be beyond them, as Gemma 3's image
    token is: no text gives it.
    """
    rows = embedding_rows(folder)
    if not rows or len(tokenizer) <= rows:
        return
    special = {id for id, token in tokenizer.added_tokens_decoder.items() if token.special}
    beyond = {id: token for token, id in tokenizer.get_vocab().items() if id >= rows}
    written = rendered_ids(tokenizer) | {tokenizer.pad_token_id}
    if found := sorted(id for id in beyond if id in written or id not in special):
        raise BadInput(
            f"the tokenizer of {folder} has {len(tokenizer)} tokens, the model has embeddings for"
            f" {rows}: {beyond[found[-1]]!r} is token {found[-1]}, expected at most {rows - 1}."
            " Call model.resize_token_embeddings(len(tokenizer)), and save model and tokenizer"
            " again."
        )


def rendered_ids(tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """Return the ids that rendering writes: the end of turn, and those of the template."""
    return {tokenizer.eos_token_id, *render_prompt(tokenizer, TURNS)}

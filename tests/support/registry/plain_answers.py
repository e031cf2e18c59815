"""Replies and scores of a model folder without MLflow, to compare a registered model with."""

from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from rlhf_core.batching.batch import encode
from rlhf_core.data.render import render_prompt
from rlhf_core.data.tokenizer import load_tokenizer
from rlhf_core.modeling.models import inference, load_scalar
from rlhf_core.reward.scoring import score_sequences


def project_scores(folder: Path, rows: list[dict], field: str) -> list[float]:
    tokenizer = load_tokenizer(folder)
    forward = inference(load_scalar(folder), dtype="float32")
    return score_sequences(
        forward, encode(tokenizer, rows, field), tokenizer.pad_token_id, 200
    ).tolist()


def plain_replies(folder: Path, rows: list[dict], tokens: int) -> list[str]:
    """Generate for one prompt at a time, with transformers alone."""
    tokenizer, model = (
        AutoTokenizer.from_pretrained(folder),
        AutoModelForCausalLM.from_pretrained(folder).eval(),
    )
    replies = []
    for row in rows:
        ids = torch.tensor([render_prompt(tokenizer, row["prompt"])])
        whole = model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=tokens, do_sample=False
        )
        replies.append(tokenizer.decode(whole[0, ids.shape[1] :], skip_special_tokens=True))
    return replies

"""Load a model folder as its users do and run it once.

A folder with all its files may still hold no model. A reward model must also score the same in
plain transformers as in this pipeline.
"""

from pathlib import Path
from typing import Literal

import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils.logging import disable_progress_bar

from rlhf_core.batching.batch import Sequence, collate, encode
from rlhf_core.data.tokenizer import load_tokenizer
from rlhf_core.errors import BadInput
from rlhf_core.modeling.classifier import classifier_class, reads_each_token
from rlhf_core.modeling.ensemble import load_members, member_folder, offsets_of
from rlhf_core.modeling.models import ScalarModel, final_scores
from rlhf_core.modeling.padding import remedy

TEXT = "How do I boil an egg?"
CONVERSATIONS = [
    {"prompt": [{"role": "user", "content": TEXT}], "reply": reply}
    for reply in ("In boiling water.", "Put it into boiling water for eight minutes, then cool it.")
]
TOLERANCE = {torch.float32: 1e-3}  # of a score, at least; products in other types are coarser
COARSE = 5e-2


def smoke(kind: Literal["policy", "reward"], folder: Path) -> None:
    """Read a few tokens with the model in `folder`, in the type its weights are stored in.

    Raises BadInput when it does not load, lacks weights, gives a value that is not finite, or when
    plain transformers reads other scores than this pipeline.
    """
    disable_progress_bar()
    members = len(offsets_of(folder)) if kind == "reward" else 1
    for number in range(1, members + 1):
        _run_once(kind, member_folder(folder, number))


def _run_once(kind: str, folder: Path) -> None:
    tokenizer = load_tokenizer(folder)
    ids = tokenizer(TEXT, return_tensors="pt")["input_ids"]
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        auto = AutoModelForCausalLM if kind == "policy" else classifier_class(config)
        model, report = auto.from_pretrained(
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
            f"{folder} cannot be loaded and run as a {kind} model of transformers: {error}"
        ) from None
    if not torch.isfinite(logits).all():
        raise BadInput(
            f"{folder} gives values that are not finite; expected finite logits for {TEXT!r}."
        )
    if kind == "reward" and not reads_each_token(config):
        _require_same_scores(model, tokenizer, folder)


def _require_same_scores(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path
) -> None:
    """Raise BadInput unless transformers scores CONVERSATIONS, one by one and padded, as we do."""
    sequences = encode(tokenizer, CONVERSATIONS, "reply")
    allowed = TOLERANCE.get(model.dtype, COARSE)
    plain = plain_scores(model, sequences, tokenizer.pad_token_id)
    ours = _pipeline_scores(model, sequences, tokenizer.pad_token_id)
    for how, scores in plain.items():
        if not torch.allclose(scores, ours, atol=allowed, rtol=allowed):
            raise BadInput(
                f"{folder} scores {_shown(ours)} in this pipeline and {_shown(scores)} in"
                f" {type(model).__name__} of transformers, {how}; expected the same. It pads with"
                f" token {model.config.get_text_config().pad_token_id}, a conversation ends with"
                f" token {tokenizer.eos_token_id}. {remedy()}"
            )


@torch.inference_mode()
def plain_scores(
    model: PreTrainedModel, sequences: list[Sequence], pad_id: int
) -> dict[str, torch.Tensor]:
    """Return the scores that the model's own forward pass gives, (N,) float32, by how it is asked.

    "one by one", and "padded together" (on the right) if the model names a padding token: without
    one transformers refuses a batch.
    """
    rows = [torch.tensor([s.prompt + s.response]) for s in sequences]
    found = {"one by one": torch.cat([model(input_ids=row).logits[:, 0] for row in rows]).float()}
    if model.config.get_text_config().pad_token_id is not None:
        width = max(row.shape[1] for row in rows)
        ids_BL = torch.full((len(rows), width), pad_id)
        mask_BL = torch.zeros_like(ids_BL)
        for place, row in enumerate(rows):
            ids_BL[place, : row.shape[1]], mask_BL[place, : row.shape[1]] = row[0], 1
        logits_B1 = model(input_ids=ids_BL, attention_mask=mask_BL).logits
        found["padded together"] = logits_B1[:, 0].float()
    return found


def pipeline_scores(folder: Path) -> list[float]:
    """Return this pipeline's scores of CONVERSATIONS, in float32; of an ensemble the mean."""
    tokenizer = load_tokenizer(folder)
    batch = collate(encode(tokenizer, CONVERSATIONS, "reply"), tokenizer.pad_token_id)
    scores = [
        final_scores(forward(batch), batch.response_mask_BR)
        for forward in load_members(folder, dtype="float32")
    ]
    return torch.stack(scores).mean(0).tolist()


@torch.inference_mode()
def _pipeline_scores(
    model: PreTrainedModel, sequences: list[Sequence], pad_id: int
) -> torch.Tensor:
    model.score.float()
    batch = collate(sequences, pad_id).to(model.device)
    return final_scores(ScalarModel(model)(batch), batch.response_mask_BR)


def _shown(scores: torch.Tensor) -> str:
    return " and ".join(f"{score:.4g}" for score in scores.tolist())

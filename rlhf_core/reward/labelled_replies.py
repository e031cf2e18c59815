"""Single replies with a label, thumbs up or down: their rows, and as sequences to train on.

A comparison can stand for two of them, the chosen reply with thumbs up and the rejected one with
thumbs down.
"""

from collections.abc import Iterable
from collections.abc import Sequence as Seq
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from rlhf_core.batching.batch import Sequence, subset
from rlhf_core.data.render import render_prompt, render_responses
from rlhf_core.data.rows.lazy import Joined
from rlhf_core.data.splits import load_split
from rlhf_core.engine.encoded import encoded_once, training_rows
from rlhf_core.errors import BadInput
from rlhf_core.reward.labelled_pairs import Inputs, training_pairs
from rlhf_core.rundir import RunDir


@dataclass(frozen=True)
class LabelledReplies:
    """Sequences with their labels. up_N: True for thumbs up."""

    sequences: Seq[Sequence]
    up_N: Tensor

    def __len__(self) -> int:
        return len(self.sequences)

    @property
    def counts(self) -> tuple[int, int]:
        """The numbers of replies with thumbs up and down."""
        up = int(self.up_N.sum())
        return up, len(self.up_N) - up


def no_replies() -> LabelledReplies:
    """Return no reply at all."""
    return LabelledReplies([], torch.zeros(0, dtype=torch.bool))


def reply_sequences(tokenizer: PreTrainedTokenizerBase, rows: Seq[dict]) -> list[Sequence]:
    """Return rows of a prompt with a response as token ids."""
    responses = render_responses(tokenizer, [row["response"] for row in rows])
    prompts = [render_prompt(tokenizer, row["prompt"]) for row in rows]
    return [Sequence(*parts) for parts in zip(prompts, responses, strict=True)]


def as_replies(pairs: Iterable[dict]) -> list[dict]:
    """Return each comparison as two labelled replies, in turn. other: the reply beside it."""
    sides = (("chosen", "rejected", True), ("rejected", "chosen", False))
    return [
        {
            "prompt": pair["prompt"],
            "response": pair[side],
            "other": pair[other],
            "label": label,
            "meta": pair.get("meta", {}),
        }
        for pair in pairs
        for side, other, label in sides
    ]


def training_feedback(
    run: RunDir, inputs: Inputs, tokenizer: PreTrainedTokenizerBase, limit: int | None, *, seed: int
) -> LabelledReplies:
    """Return the training feedback, at most `limit` rows of it; empty without any."""
    if "feedback_train" not in inputs:
        return no_replies()
    rows = training_rows(inputs["feedback_train"].path, limit, seed=seed)
    encode = partial(reply_sequences, tokenizer)
    sequences = encoded_once(run.tokens / "feedback", rows, encode, Sequence)
    return LabelledReplies(sequences, torch.tensor([row["label"] for row in rows]))


def training_replies(
    run: RunDir, inputs: Inputs, tokenizer: PreTrainedTokenizerBase, limit: int | None, *, seed: int
) -> LabelledReplies:
    """Return the training feedback, then the replies of the training comparisons, new ones last.

    limit: rows of feedback, and of comparisons, that are used. All new comparisons are.
    """
    feedback = training_feedback(run, inputs, tokenizer, limit, seed=seed)
    if "comparisons_train" not in inputs:
        return feedback
    pairs = training_pairs(run, inputs, tokenizer, limit, seed=seed, folder="comparisons")
    up_N = torch.tensor([True, False]).repeat(len(pairs.rows))
    joined = Joined([feedback.sequences, pairs.sequences])
    return LabelledReplies(joined, torch.cat([feedback.up_N, up_N]))


def heldout_rows(inputs: Inputs, kind: str, limit: int, *, seed: int) -> list[dict]:
    """Return at most `limit` held-out rows of a kind, drawn by `seed`; none without a split."""
    name = f"{kind}_heldout"
    return subset(load_split(inputs[name].path), limit, seed=seed) if name in inputs else []


def require_both_labels(name: str, up: int, down: int) -> None:
    """Raise BadInput where all replies have the same label, of which nothing can be learnt."""
    if not up or not down:
        raise BadInput(
            f"{name} has {up} replies with thumbs up and {down} with thumbs down; expected both"
            " labels. Add replies of the other label, or comparisons."
        )

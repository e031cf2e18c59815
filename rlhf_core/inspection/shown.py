"""What `rlhf inspect` shows of a recipe's stages: plain values, made without a tokenizer."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class InspectedRow:
    """The tokens of one row, padding left out.

    kind: of text, e.g. 'chosen'. record: id of the row that it was made from. prompt: number of its
    tokens. trained: per token, True where the loss has a term. score_at: place of the token whose
    score counts, ends_at: of the one that ends the reply; None where the stage has neither.
    """

    kind: str
    record: str
    ids: list[int]
    texts: list[str]
    prompt: int
    trained: list[bool]
    score_at: int | None = None
    ends_at: int | None = None


@dataclass(frozen=True)
class ReadModels:
    """The folders whose tokenizers the stages load before anything is trained.

    An SFT model gets the tokenizer of its base model, and a reward model that of its SFT model.
    """

    base: Path
    sft: Path | None = None
    reward: Path | None = None


@dataclass(frozen=True)
class InspectedStage:
    """The first rows of a stage; count: the rows that it takes of the split in all."""

    stage: str
    split: str
    count: int
    model: Path
    meaning: str
    rows: tuple[InspectedRow, ...]

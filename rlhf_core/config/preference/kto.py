"""The section of KTO."""

from typing import Annotated

from pydantic import Field

from rlhf_core.config.fields import Positive, Rate, Share
from rlhf_core.config.gates import KTOGate
from rlhf_core.config.preference.feedback import LearnFrom, Weight
from rlhf_core.config.training import Training


class KTO(Training):
    """Alignment on single replies with thumbs up or down, without a reward model.

    Ethayarajh et al. 2024, arXiv:2402.01306.
    """

    learn_from: LearnFrom = Field(
        "mixed",
        description=(
            "Rows of KTO. 'mixed': the feedback, and each comparison as two replies, the chosen one"
            " with thumbs up and the rejected one with thumbs down."
        ),
    )
    beta: Annotated[float, Field(gt=0)] = Field(
        0.1, description="Strength of the pull towards the SFT model, score per nat."
    )
    desirable_weight: Weight | None = Field(
        None,
        description=(
            "Weight of a thumbs-up reply. None: both labels weigh the same in all, the more"
            " frequent one 1 per row."
        ),
    )
    undesirable_weight: Weight | None = Field(
        None, description="Weight of a thumbs-down reply. None: as desirable_weight."
    )
    lr: Rate = Field(1e-6, description="Peak learning rate.")
    epochs: Annotated[int, Field(ge=1, le=20)] = Field(1, description="Passes over the replies.")
    batch_size: Annotated[int, Field(ge=2)] = Field(
        64,
        description=(
            "Replies per step, over all ranks. Each prompt of a step with another reply of it"
            " estimates the KL that replies are compared with."
        ),
    )
    warmup_ratio: Share = Field(
        0.1, description="Share of steps with linear warm-up. Linear decay to 0 follows."
    )
    max_train: int | None = Field(
        None,
        gt=0,
        description=(
            "Rows used of the training feedback, and of the training comparisons, drawn by seed."
            " None: all."
        ),
    )
    max_heldout: Positive = Field(
        2000, description="Largest number of rows of the held-out feedback, and of comparisons."
    )
    gate: KTOGate = Field(KTOGate(), description="Thresholds of the stage's gates.")

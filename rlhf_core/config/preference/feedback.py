"""The rows that a stage learns from where there are comparisons and feedback, and their weights."""

from typing import Annotated, Literal

from pydantic import Field

from rlhf_core.config.fields import Config

LearnFrom = Literal["mixed", "feedback", "comparisons"]
Weight = Annotated[float, Field(gt=0)]


class RewardFeedback(Config):
    """The reward model's share of unpaired labels: binary cross-entropy on its score."""

    learn_from: LearnFrom = Field(
        "mixed",
        description=(
            "Rows of the reward model. 'mixed': comparisons and feedback, those that there are. It"
            " is measured on the same kinds."
        ),
    )
    weight: Weight = Field(
        1.0, description="Weight of a label's loss, where a pair's Bradley-Terry loss has 1."
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

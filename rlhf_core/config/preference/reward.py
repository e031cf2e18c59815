"""The section of the reward model."""

from typing import Annotated

from pydantic import Field

from rlhf_core.config.fields import NonNegative, Positive, Rate, Share
from rlhf_core.config.gates import RewardGate
from rlhf_core.config.preference.feedback import RewardFeedback
from rlhf_core.config.training import PairTraining
from rlhf_core.metric_tables.stages import MAX_MEMBERS

FROM_SFT = "sft"  # reward.start: anew
CHAMPIONS = "champion"  # reward.start, reward.before: the reward model of the champion


class Reward(PairTraining):
    """Training of the reward model on comparisons."""

    start: str = Field(
        FROM_SFT,
        min_length=1,
        exclude_if=lambda value: value == FROM_SFT,
        description=(
            "Model that training starts from. 'sft': the SFT model, with a new head. 'champion':"
            " the reward model of the registry's champion. Else the folder of a reward model of"
            " the same base model and tokenizer."
        ),
    )
    before: str | None = Field(
        None,
        min_length=1,
        exclude_if=lambda value: value is None,
        description=(
            "Reward model that the policy of data.new_comparisons was trained with: a folder, or"
            " 'champion'. Its drift on them is measured before training. None: that of start."
        ),
    )
    lr: Rate = Field(1e-5, description="Peak learning rate.")
    epochs: Annotated[int, Field(ge=1, le=20)] = Field(
        1, description="Passes over the comparisons."
    )
    batch_size: Positive = Field(64, description="Pairs per step, over all ranks.")
    warmup_ratio: Share = Field(
        0.05, description="Share of steps with linear warm-up. Linear decay to 0 follows."
    )
    max_train: int | None = Field(
        None, gt=0, description="Training pairs used, drawn by seed. None: all."
    )
    max_heldout: Positive = Field(
        2000, description="Largest number of held-out pairs for the accuracy."
    )
    ensemble: Annotated[int, Field(ge=1, le=MAX_MEMBERS)] = Field(
        1,
        description=(
            "Number of reward models, trained on the same pairs with different heads and orders."
            " Their mean is the score."
        ),
    )
    margin_scale: NonNegative = Field(
        0.0,
        description=(
            "Margin by which the chosen answer should lead, score per unit of the pair's strength."
            " 0: off (Llama 2)."
        ),
    )
    label_smoothing: Annotated[float, Field(ge=0, lt=0.5)] = Field(
        0.0, description="Probability that a label is wrong. 0: off."
    )
    smoothing_from_votes: bool = Field(
        False,
        description=(
            "Take the smoothing from each pair's votes: the share against its label."
            " label_smoothing applies to pairs without votes."
        ),
    )
    centring: NonNegative = Field(
        0.0,
        description=(
            "Weight of (score(chosen) + score(rejected))^2 in the loss. 0: off (0.01: Eisenstein et"
            " al. 2023)."
        ),
    )
    feedback: RewardFeedback = Field(
        RewardFeedback(),
        exclude_if=lambda value: value == RewardFeedback(),
        description="Labels of single replies, beside or in place of comparisons.",
    )
    gate: RewardGate = Field(RewardGate(), description="Thresholds of the stage's gates.")

    @property
    def measures_before(self) -> bool:
        """True if there is a reward model whose drift on new comparisons can be measured."""
        return self.before is not None or self.start != FROM_SFT

    @property
    def champion_key(self) -> str | None:
        """The key that names the reward model of the champion; None where neither does."""
        keys = {"reward.start": self.start, "reward.before": self.before}
        return next((key for key, value in keys.items() if value == CHAMPIONS), None)

"""The keys of every training stage, adapters, and the sections of SFT and DPO."""

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, StrictBool, model_validator

from rlhf_core.config.fields import Config, NonNegative, Positive, Rate, Share
from rlhf_core.config.gates import DPOGate, SFTGate
from rlhf_core.config.preference.feedback import Weight


class LoRA(Config):
    """A low-rank adapter: W' = W + alpha / rank * B A, with W frozen and B = 0 at first.

    Source: Hu et al. 2021, arXiv:2106.09685, section 4.1.
    Defaults: rank and alpha of its table 9 for the larger RoBERTa; all linear maps as Dettmers et
    al. 2023, arXiv:2305.14314, section 4. Rates are higher than for the whole model: 2e-4 in both.
    """

    rank: Positive = Field(8, description="Rank of the adapter: columns of B and rows of A.")
    alpha: Annotated[float, Field(gt=0)] = Field(
        16.0, description="The adapter's product is scaled by alpha / rank."
    )
    dropout: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.0, description="Share of an adapter's inputs that are dropped in training."
    )
    target_modules: Literal["all-linear"] | Annotated[tuple[str, ...], Field(min_length=1)] = Field(
        "all-linear",
        description=(
            "Linear layers that have an adapter. 'all-linear': all but the output layer. Else a"
            " list of names like 'q_proj'."
        ),
    )


def _from_switch(value: object) -> object:
    """Turn true into every default and false into None.

    TOML has no null, so that a setting on the command line needs false to switch LoRA off.
    """
    return {True: {}, False: None}[value] if isinstance(value, bool) else value


OptionalLoRA = Annotated[LoRA | None, BeforeValidator(_from_switch)]


class Training(Config):
    """The keys of every stage that DeepSpeed trains."""

    zero_stage: Literal[0, 1, 2, 3] = Field(
        0,
        description=(
            "DeepSpeed ZeRO: what is divided among the ranks. 0: nothing, 1: optimizer states, 2:"
            " gradients too, 3: weights too."
        ),
    )
    offload_optimizer: StrictBool | Literal["disk"] = Field(
        False,
        description=(
            "Keep AdamW's states and run its step in host memory. Needs zero_stage >= 1. 'disk':"
            " its moments are in a file in TMPDIR, and in host memory during the step alone; on a"
            " CPU at any zero_stage."
        ),
    )
    activation_checkpointing: bool = Field(
        False, description="Recompute the activations inside layers: less memory, a third slower."
    )
    micro_batch_tokens: Positive = Field(
        4096,
        description="Tokens that go through the model at once, padding included (unless packing).",
    )
    packing: bool = Field(
        False,
        description=(
            "Pack the whole sequences of a microbatch into one row, without padding. None of them"
            " attends to another."
        ),
    )
    max_grad_norm: NonNegative = Field(
        1.0, description="Global l2 norm at which gradients are clipped. 0: off."
    )
    weight_decay: NonNegative = Field(
        0.0,
        description="Weight decay of AdamW, per step times the rate. Biases and norms have none.",
    )
    router_aux_loss_coef: float | None = Field(
        None,
        ge=0,
        description=(
            "Weight of the load-balancing loss of a mixture of experts. None: the model's own, of"
            " its config.json; a model without experts has no such loss. 0: off."
        ),
    )
    lora: OptionalLoRA = Field(
        None, description="Train only low-rank adapters (and a scalar head). None: the whole model."
    )
    checkpoint_every: Positive = Field(50, description="Steps between checkpoints.")
    checkpoint_minutes: Annotated[float, Field(gt=0)] = Field(
        20.0,
        description=(
            "Longest time between checkpoints, in minutes: one comes earlier than checkpoint_every"
            " says where another step would exceed it."
        ),
    )
    async_checkpoints: bool | None = Field(
        None,
        description=(
            "Write a checkpoint while training goes on, from a copy in main memory. None: where"
            " models train on GPUs."
        ),
    )
    keep_checkpoints: Positive = Field(
        2, description="Checkpoints kept while the stage runs. A finished stage keeps its model."
    )

    @model_validator(mode="after")
    def _something_to_offload(self) -> "Training":
        if self.offload_optimizer is True and self.zero_stage == 0:
            raise ValueError(
                "offload_optimizer with zero_stage 0: DeepSpeed offloads from ZeRO 1 on; set"
                " zero_stage to 1, 2 or 3, or on a CPU offload_optimizer to 'disk'"
            )
        return self


class SFT(Training):
    """Supervised fine-tuning on demonstrations."""

    lr: Rate = Field(1e-5, description="Peak learning rate.")
    epochs: Annotated[int, Field(ge=1, le=20)] = Field(
        2, description="Passes over the demonstrations. 1 to 3 is usual."
    )
    batch_size: Positive = Field(32, description="Demonstrations per step, over all ranks.")
    warmup_ratio: Share = Field(
        0.05, description="Share of steps with linear warm-up. Linear decay to 0 follows."
    )
    max_train: int | None = Field(
        None, gt=0, description="Training demonstrations used, drawn by seed. None: all."
    )
    max_heldout: Positive = Field(
        512, description="Largest number of held-out demonstrations for the loss."
    )
    train_on: Literal["all", "last"] = Field(
        "all",
        description=(
            "Answers of a demonstration that are trained: 'all' of a dialogue, or the 'last' one."
        ),
    )
    neftune_alpha: NonNegative = Field(
        0.0,
        description=(
            "Noise on the embeddings, uniform within +- alpha / sqrt(tokens * width). 0: off (5:"
            " Jain et al. 2023)."
        ),
    )
    gate: SFTGate = Field(SFTGate(), description="Thresholds of the stage's gates.")


class PairTraining(Training):
    """The keys of every stage that learns from comparisons."""

    share_prompts: bool = Field(
        False, description="Read a pair's prompt once for both answers. Needs packing."
    )
    new_weight: Weight = Field(
        1.0,
        exclude_if=lambda value: value == 1.0,
        description=(
            "Weight of the loss of a pair of data.new_comparisons, against that of another pair."
            " The mean weight of all pairs is 1."
        ),
    )

    @model_validator(mode="after")
    def _prompts_can_be_shared(self) -> "PairTraining":
        if self.share_prompts and not self.packing:
            raise ValueError(
                "share_prompts without packing: answers read one copy of their prompt in packed"
                " rows only; set packing to true, or leave share_prompts out"
            )
        return self


class DPO(PairTraining):
    """Alignment on the comparisons themselves, without a reward model.

    Defaults: Rafailov et al. 2023, arXiv:2305.18290, app. B (lr, beta, batch_size); warm-up as
    Tunstall et al. 2023, arXiv:2310.16944, section 4.3.
    """

    loss: Literal["sigmoid", "ipo"] = Field(
        "sigmoid",
        description="'sigmoid': the loss of DPO. 'ipo': squared (Azar et al. 2023, eq. 17).",
    )
    beta: Annotated[float, Field(gt=0)] = Field(
        0.1,
        description=(
            "Strength of the pull towards the SFT model, score per nat. With 'ipo' the target"
            " margin is 1 / (2 beta) nats."
        ),
    )
    label_smoothing: Annotated[float, Field(ge=0, lt=0.5)] = Field(
        0.0,
        description=(
            "Probability that a label is wrong (conservative DPO, Mitchell 2023). 'sigmoid' only."
        ),
    )
    lr: Rate = Field(1e-6, description="Peak learning rate.")
    epochs: Annotated[int, Field(ge=1, le=20)] = Field(
        1, description="Passes over the comparisons."
    )
    batch_size: Positive = Field(64, description="Pairs per step, over all ranks.")
    warmup_ratio: Share = Field(
        0.1, description="Share of steps with linear warm-up. Linear decay to 0 follows."
    )
    max_train: int | None = Field(
        None, gt=0, description="Training pairs used, drawn by seed. None: all."
    )
    max_heldout: Positive = Field(
        2000, description="Largest number of held-out pairs for the accuracy."
    )
    gate: DPOGate = Field(DPOGate(), description="Thresholds of the stage's gates.")

    @model_validator(mode="after")
    def _smoothing_is_used(self) -> "DPO":
        if self.loss == "ipo" and self.label_smoothing:
            raise ValueError(
                f"label_smoothing {self.label_smoothing:g} with loss 'ipo', which has no label"
                " smoothing; set it to 0, or loss = 'sigmoid'"
            )
        return self

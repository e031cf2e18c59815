"""Low-rank adapters, which learn in place of the whole model."""

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from rlhf_core.config.fields import Config, Positive


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

"""The limits section: the most that a run may take."""

from typing import Annotated

from pydantic import Field

from rlhf_core.config.fields import Config

Amount = Annotated[float, Field(gt=0)]


class Limits(Config):
    """The most that a run may take of time, machine and money, over its stages and their attempts.

    A stage that reaches a limit ends at its next step with a checkpoint, and the run is refused. No
    stage's result depends on this section.
    """

    hours: Amount | None = Field(
        None, description="Hours of the clock in which stages are at work. None: no limit."
    )
    cpu_hours: Amount | None = Field(None, description="Hours of one core at work. None: no limit.")
    gpu_hours: Amount | None = Field(
        None, description="Hours of one GPU reserved, idle or not. None: no limit."
    )
    money: Amount | None = Field(
        None,
        description=(
            "Money for hours of cores and GPUs, in the currency of the price table, which must be"
            " there. None: no limit."
        ),
    )

    @property
    def given(self) -> dict[str, float]:
        """The limits that are set, by key."""
        return {key: value for key, value in self if value is not None}

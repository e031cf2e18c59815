"""What every recipe section is made of: the base class and the bounded number types."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field


class Config(BaseModel):
    """Base of every recipe section."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


Positive = Annotated[int, Field(gt=0)]
Rate = Annotated[float, Field(gt=0, le=1)]
Share = Annotated[float, Field(ge=0, le=1)]
CorrelationBound = Annotated[float, Field(ge=-1, le=1)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0)]
FrozenPlacement = Literal[
    "whole", "sharded"
]  # where the weights of a model lie that does not learn: on each rank, or shared out
Severity = Literal["error", "warning", "off"]

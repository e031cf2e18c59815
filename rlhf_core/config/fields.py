"""The base class of every recipe section, and the bounded number types of its keys."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field


class Config(BaseModel):
    """Base of every recipe section."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


# of names that files and registered models get: a file's name has 255 bytes at most, and MLflow's
# column of a model's name 256 letters
NAME_LENGTH = 64
Positive = Annotated[int, Field(gt=0)]
Rate = Annotated[float, Field(gt=0, le=1)]
Share = Annotated[float, Field(ge=0, le=1)]
CorrelationBound = Annotated[float, Field(ge=-1, le=1)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0)]
# weights of a model that does not learn: whole on each rank, or divided among the ranks
FrozenPlacement = Literal["whole", "sharded"]
Severity = Literal["error", "warning", "off"]

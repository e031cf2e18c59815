"""The base class of every recipe section, and the bounded number types of its keys."""

from datetime import date
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field


class Config(BaseModel):
    """Base of every recipe section."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


# of names that files and registered models get: a file's name has 255 bytes at most, and MLflow's
# column of a model's name 256 letters
NAME_LENGTH = 64
# of one float32 tensor of logits: 2,048 tokens of SmolLM2, whose vocabulary has 49,152
LOGITS_MIB = 384
Positive = Annotated[int, Field(gt=0)]
Rate = Annotated[float, Field(gt=0, le=1)]
Share = Annotated[float, Field(ge=0, le=1)]
CorrelationBound = Annotated[float, Field(ge=-1, le=1)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0)]
# weights of a model that does not learn: whole on each rank, or divided among the ranks
FrozenPlacement = Literal["whole", "sharded"]
Severity = Literal["error", "warning", "off"]


def _as_text(value: object) -> object:
    """Return a date, as TOML has them, as text; other values as they are."""
    return value.isoformat() if isinstance(value, date) else value


def _is_a_day(text: str) -> str:
    try:
        return date.fromisoformat(text).isoformat()
    except ValueError:
        raise ValueError(f"{text!r} is no date; expected YYYY-MM-DD, as 2026-01-31") from None


TemplateDate = Annotated[str, BeforeValidator(_as_text), AfterValidator(_is_a_day)]

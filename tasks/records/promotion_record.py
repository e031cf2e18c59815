"""The outcome of a pipeline run's promotion, as its record keeps it."""

from pydantic import BaseModel, ConfigDict


class PromotionRecord(BaseModel):
    """The outcome for the run's policy; `seconds` is 0 in records of older versions."""

    model_config = ConfigDict(frozen=True)

    model: str
    version: str
    promoted: bool  # it is the champion now
    reason: str  # one sentence
    replaced: str | None = None  # version that was champion before
    entry: int | None = None  # of the ledger
    seconds: float = 0.0

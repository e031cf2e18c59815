"""The forecast of a running stage: when it ends, and what it will have cost."""

from datetime import UTC, datetime

from rlhf_core.rundir import Frozen


class Forecast(Frozen):
    """A stage's time and money from its steps so far. money: None without prices."""

    step: int  # it was made after this one
    steps: int
    made: int  # ms since the epoch
    seconds: float  # of the whole stage, its earlier attempts included
    left: float  # seconds
    money: float | None = None
    currency: str = ""

    @property
    def price(self) -> str:
        """The money with its currency, '' without prices."""
        if self.money is None:
            return ""
        amount = "under 0.01" if 0 < self.money < 0.01 else f"{self.money:,.2f}"
        return f"{amount} {self.currency}".rstrip()

    @property
    def sentence(self) -> str:
        """The forecast in words."""
        ends = datetime.fromtimestamp(self.made / 1000 + self.left, UTC)
        price = f", {self.price}" if self.price else ""
        return (
            f"after step {self.step} of {self.steps}: ends {ends:%Y-%m-%d %H:%M} UTC,"
            f" {self.seconds / 3600:.2f} hours in all{price}"
        )

"""The costs of runs: hours of cores and GPUs, energy and money."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from flows.api.arguments import require_text, require_texts
from flows.api.session import begin, tracking_client

if TYPE_CHECKING:
    from pandas import DataFrame

    from tasks.analysis.board.costs import CostRow


@dataclass(frozen=True)
class Costs:
    """The costs of groups of runs, the dearest first. currency: '' without prices."""

    by: str
    rows: "list[CostRow]"
    currency: str = ""
    priced: bool = False

    def frame(self) -> "DataFrame":
        """Return a pandas frame with a row per group."""
        import pandas

        return pandas.DataFrame(self.as_json()["rows"])

    def _repr_html_(self) -> str:
        return str(self.frame()._repr_html_())

    def as_json(self) -> dict[str, Any]:
        """Return what `rlhf cost --json` prints."""
        from dataclasses import asdict

        from tasks.analysis.board.costs import total

        return {
            "by": self.by,
            "currency": self.currency or None,
            "rows": [asdict(row) for row in self.rows],
            "total": asdict(total(self.rows)),
        }


def cost(*filters: str, by: str = "recipe", since: str | None = None) -> Costs:
    """Sum up what the runs in MLflow took, as `rlhf cost` does.

    filters: as of `leaderboard`. by: recipe, stage, run, status, day, month, or a recipe key.
    since: 30d, 12h, 2w or a date; without it, all runs. Hours of cores are those at work, hours of
    GPUs those reserved, energy that of whole devices (None: not measured). Money is by the prices
    of the file that RLHF_PRICES names, or of prices.toml in the workspace. Raises ConfigError.
    """
    require_texts("a filter", filters)
    require_text("by", by)
    if since is not None:
        require_text("since", since)
    workspace, client = begin(), tracking_client()
    from tasks.analysis.board.conditions import chosen
    from tasks.analysis.board.costs import costs_by, since_time
    from tasks.analysis.board.prices import load_prices
    from tasks.analysis.board.run_rows import run_rows

    start = since_time(since) if since else None
    prices = load_prices(workspace)
    rows = costs_by(chosen(run_rows(client), filters), by, prices, start)
    return Costs(by, rows, prices.currency if prices else "", prices is not None)

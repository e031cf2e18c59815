"""Rank the runs of a store by a metric."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from flows.api.arguments import require_choice, require_texts
from flows.api.session import tracking_client

if TYPE_CHECKING:
    from pandas import DataFrame

    from tasks.analysis.board.ranking import RunRanking

Order = Literal["highest", "lowest"]


@dataclass(frozen=True)
class Leaderboard:
    """Runs, or groups of runs, ranked by a metric. In a notebook it shows itself as a table."""

    ranking: "RunRanking"
    tracking_uri: str

    def __repr__(self) -> str:
        from flows.report.leaderboard import title

        return f"<Leaderboard: {title(self.ranking)}>"

    def _repr_html_(self) -> str:
        return str(self.frame()._repr_html_())

    def frame(self) -> "DataFrame":
        """Return a pandas frame, a row per rank, with value, interval and verdict."""
        import pandas

        rows = [
            {"rank": row.rank}
            | row.values
            | {
                "run": row.runs[0].name,
                "runs": len(row.runs),
                self.ranking.request.metric: row.found.mean,
                "low": row.found.low,
                "high": row.found.high,
                "sd": row.found.sd,
                "difference": row.finding.difference if row.rank > 1 else None,
                "p_adjusted": row.p_adjusted,
                "verdict": row.verdict,
            }
            for row in self.ranking.rows
        ]
        return pandas.DataFrame(rows)

    def references(self, *ranks: int) -> list[str]:
        """Return the ids of the runs of these rows, else of the first two, for `compare`."""
        return self.ranking.references(ranks or (1, 2))

    def as_json(self) -> dict[str, Any]:
        """Return what `rlhf leaderboard --json` prints."""
        from flows.report.leaderboard import leaderboard_json

        return leaderboard_json(self.ranking, self.tracking_uri)

    def page(self) -> str:
        """Return the leaderboard as one HTML page."""
        from flows.report.leaderboard import leaderboard_page

        return str(leaderboard_page(self.ranking, self.tracking_uri))


def leaderboard(
    *filters: str,
    metric: str | None = None,
    group_by: tuple[str, ...] | list[str] | str = (),
    over_seeds: bool = False,
    fdr: float = 0.05,
    order: Order | None = None,
) -> Leaderboard:
    """Rank the runs in MLflow by a metric, as `rlhf leaderboard` does.

    filters: a recipe's name, a pattern of run names (quickstart-*), or conditions such as
    ppo.beta=0.1 or eval/win_rate>0.6; a run must meet all of them. metric: default eval/win_rate.
    group_by: recipe keys; one row per combination of their values, which is the best run of it, or
    with over_seeds the mean over its seeds. over_seeds alone: runs that differ in the seed alone
    are one row.

    Every row is compared with the first one, and the p-values are corrected together: of the
    differences called significant, at most the share `fdr` is expected to be false. order: which
    side is first, where the metric does not say it. Raises ConfigError for a filter, metric or key
    that no run has.
    """
    if order is not None:
        require_choice("order", order, ("highest", "lowest"))
    require_texts("a filter", filters)
    require_texts("metric", [] if metric is None else [metric])
    client = tracking_client()
    from tasks.analysis.board.conditions import chosen
    from tasks.analysis.board.ranking import METRIC, LeaderboardRequest, ranked
    from tasks.analysis.board.run_rows import run_rows

    request = LeaderboardRequest(
        metric or METRIC,
        (group_by,) if isinstance(group_by, str) else tuple(group_by),
        over_seeds,
        fdr,
        None if order is None else order == "lowest",
    )
    found = ranked(chosen(run_rows(client), filters), request)
    return Leaderboard(found, client.tracking_uri)

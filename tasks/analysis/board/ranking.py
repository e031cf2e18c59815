"""The leaderboard: runs, or groups of runs, ranked by one metric.

Every row after the first is compared with the first one by the rules of `rlhf compare`, as far as
they can be known from the final metrics: nothing is paired by item, and two runs have one SFT or
reward model where the recipe keys that make it are the same. The p-values of all rows are corrected
together (Benjamini and Hochberg).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from rlhf_core.benchmarks.names import parse
from rlhf_core.digest import digest_json
from rlhf_core.errors import ConfigError
from rlhf_core.stage_catalogue import EVALUATE
from rlhf_core.statistics.p_values import adjusted
from tasks.analysis.board.conditions import require_key, value_of
from tasks.analysis.board.row_evidence import evidence_of, plain_value, seed_of
from tasks.analysis.board.run_rows import RunRow
from tasks.analysis.metric_rows import HIGHER_IS_BETTER, LOWER_IS_BETTER
from tasks.analysis.seed_groups import IDENTITY, SeedGroup, SeedSpread, compared, spread
from tasks.analysis.significance import Finding

METRIC = EVALUATE.headline[0]
HARDWARE = "hardware"  # section of the parameters that is none of the recipe
FIRST = "first"


@dataclass(frozen=True)
class LeaderboardRequest:
    """The request for a ranking: what, by what.

    keys: recipe keys whose values are the groups; over_seeds: runs that differ in the seed alone
    are one row, with mean and spread. fdr: the expected share of false ones among the differences
    from the first row that are called significant. lowest_first: None where the metric itself says
    which side is better.
    """

    metric: str = METRIC
    keys: tuple[str, ...] = ()
    over_seeds: bool = False
    fdr: float = 0.05
    lowest_first: bool | None = None


@dataclass(frozen=True)
class LeaderboardRow:
    """One run, or one group of runs. finding: its difference from the first row."""

    rank: int
    values: dict[str, Any]  # of the keys
    runs: list[RunRow]
    found: SeedSpread
    finding: Finding
    p_adjusted: float | None = None
    verdict: str = FIRST

    @property
    def name(self) -> str:
        """The name of its first run, with the number of seeds."""
        others = f" ({len(self.runs)} seeds)" if len(self.runs) > 1 else ""
        return self.runs[0].name + others


@dataclass(frozen=True)
class RunRanking:
    """The rows, the best first. without: runs that have no value of the metric."""

    request: LeaderboardRequest
    rows: list[LeaderboardRow]
    lowest_first: bool
    without: int = 0
    cautions: list[str] = field(default_factory=list)

    def references(self, ranks: Sequence[int] = (1, 2)) -> list[str]:
        """Return the runs of some rows as `rlhf compare` takes them."""
        chosen = [row for row in self.rows if row.rank in ranks]
        return [run.run_id for row in chosen for run in row.runs]


def ranked(rows: Sequence[RunRow], request: LeaderboardRequest) -> RunRanking:
    """Return the leaderboard of these runs.

    Raises ConfigError for a level that is none, and for a metric or key that no run has.
    """
    if not 0 < request.fdr < 1:
        raise ConfigError(f"--fdr {request.fdr:g}: expected a share between 0 and 1, e.g. 0.05.")
    for key in (request.metric, *request.keys):
        require_key(rows, key)
    measured = [row for row in rows if request.metric in row.metrics]
    lowest = request.lowest_first
    lowest_first = request.metric in LOWER_IS_BETTER if lowest is None else lowest
    groups = _groups(measured, request, lowest_first)
    entries = [_entry(group, request) for group in groups]
    entries.sort(key=lambda entry: entry[2].mean if lowest_first else -entry[2].mean)
    made = [
        LeaderboardRow(
            place,
            {key: plain_value(str(value_of(group[0], key))) for key in request.keys},
            group,
            found,
            compared(request.metric, entries[0][1], seeds) if place > 1 else Finding("identical"),
        )
        for place, (group, seeds, found) in enumerate(entries, 1)
    ]
    return RunRanking(
        request,
        _with_verdicts(made, request, lowest_first),
        lowest_first,
        len(rows) - len(measured),
        _cautions(made, request, lowest is None),
    )


# groups


def _groups(
    rows: list[RunRow], request: LeaderboardRequest, lowest_first: bool
) -> list[list[RunRow]]:
    """Return the runs of each row of the leaderboard, in the order of their latest run.

    Of several runs with one seed the latest counts. Keys without seeds: the best run of each group.
    """
    found: dict[str, list[RunRow]] = {}
    for row in rows:
        found.setdefault(_identity(row, request), []).append(row)
    groups = list(found.values())
    if request.over_seeds:
        return [_one_per_seed(group) for group in groups]
    if request.keys:
        sign = 1 if lowest_first else -1
        return [
            [min(group, key=lambda row: sign * row.metrics[request.metric])] for group in groups
        ]
    return groups


def _identity(row: RunRow, request: LeaderboardRequest) -> str:
    if request.keys:
        return digest_json([row.recipe, *(value_of(row, key) for key in request.keys)])
    if not request.over_seeds:
        return row.run_id
    return digest_json(
        {
            key: value
            for key, value in row.params.items()
            if key.partition(".")[0] not in (*IDENTITY, HARDWARE)
        }
    )


def _one_per_seed(group: list[RunRow]) -> list[RunRow]:
    """Return the latest run of each seed, in the order of the seeds. Rows come the latest first."""
    latest: dict[int, RunRow] = {}
    for row in group:
        latest.setdefault(seed_of(row), row)
    return [latest[seed] for seed in sorted(latest)]


# values and comparisons


def _entry(
    group: list[RunRow], request: LeaderboardRequest
) -> tuple[list[RunRow], SeedGroup, SeedSpread]:
    seeds = SeedGroup([evidence_of(row, request.metric) for row in group])
    found = spread(request.metric, seeds)
    assert found is not None  # every run here has the metric
    return group, seeds, found


def _with_verdicts(
    rows: list[LeaderboardRow], request: LeaderboardRequest, lowest_first: bool
) -> list[LeaderboardRow]:
    """Return the rows with their p-values corrected together, and what these say."""
    tested = [row for row in rows[1:] if row.finding.p_value is not None]
    values = adjusted([p for row in tested if (p := row.finding.p_value) is not None])
    by_rank = {row.rank: p for row, p in zip(tested, values, strict=True)}
    return [
        LeaderboardRow(
            row.rank,
            row.values,
            row.runs,
            row.found,
            row.finding,
            p := by_rank.get(row.rank),
            _verdict(row, p, request.fdr, lowest_first),
        )
        for row in rows
    ]


def _verdict(row: LeaderboardRow, p: float | None, fdr: float, lowest_first: bool) -> str:
    if row.rank == 1:
        return FIRST
    if p is None:
        return row.finding.verdict
    side = "higher" if lowest_first else "lower"
    return f"significantly {side}" if p < fdr else "not significant"


def _cautions(
    rows: list[LeaderboardRow], request: LeaderboardRequest, side_is_default: bool
) -> list[str]:
    """Return the limits of the leaderboard that a reader must know."""
    metric, said = request.metric, []
    has_side = metric in HIGHER_IS_BETTER | LOWER_IS_BETTER or bool(parse(metric))
    if side_is_default and not has_side:
        said.append(f"Nothing says which side of {metric} is better: the highest is first.")
    if len(rows) > 2:
        said.append(
            "The first row is the best of many, so its lead is flattered by chance. Before you"
            " choose it, compare it with the next ones by item (rlhf compare), or on fresh prompts."
        )
    if request.keys and (mixed := _mixed_keys(rows, request)):
        said.append(f"Within a group other keys differ as well: {', '.join(mixed[:6])}.")
    if not request.over_seeds and len(rows) > 1:
        said.append("Intervals cover the held-out items, not the training seed: add --over-seeds.")
    return said


def _mixed_keys(rows: list[LeaderboardRow], request: LeaderboardRequest) -> list[str]:
    """Return the recipe keys, but seed and names, that differ within a row."""
    mixed: dict[str, None] = {}
    for row in rows:
        first = row.runs[0].params
        for other in row.runs[1:]:
            keys = first.keys() | other.params.keys()
            mixed |= dict.fromkeys(key for key in keys if first.get(key) != other.params.get(key))
    left_out = (*IDENTITY, HARDWARE)
    return sorted(
        key for key in mixed if key.partition(".")[0] not in left_out and key not in request.keys
    )

"""Runs that differ in their seed alone, as one group: mean, spread, and intervals over seeds.

A difference between two runs mixes what was changed with the luck of their seeds. Between two
groups of seeds it does not: their intervals cover the seeds drawn, and where all runs are measured
on the same items, the items as well (rlhf_core/statistics/crossed.py).
"""

from dataclasses import dataclass
from statistics import mean, stdev

import numpy as np

from rlhf_core.digest import digest_json
from rlhf_core.metrics import METRICS
from rlhf_core.prepare import QUICKSTART
from rlhf_core.stage_catalogue import VALIDATE
from rlhf_core.statistics.crossed import Block, CrossedEstimate, crossed
from tasks.analysis.comparability import no_common_scale
from tasks.analysis.metric_rows import finding, metric_names, same_stage_run, with_better_side
from tasks.analysis.pairing import estimate, item_table
from tasks.analysis.run_evidence import RunEvidence
from tasks.analysis.significance import Coverage, Finding, corrected, verdict_on

# keys that may differ within a group
IDENTITY = ("seed", "name", "description", "registry", "limits")


@dataclass(frozen=True)
class SeedGroup:
    """Runs of one recipe, data and code, one per seed."""

    runs: list[RunEvidence]

    @property
    def name(self) -> str:
        """The name of its first run, with the number of seeds."""
        others = f" ({len(self.runs)} seeds)" if len(self.runs) > 1 else ""
        return self.runs[0].name + others

    @property
    def seeds(self) -> list[int]:
        """The seeds of its runs."""
        return [run.recipe.get("seed", 0) for run in self.runs]


@dataclass(frozen=True)
class SeedSpread:
    """A metric over the seeds of a group. covers: what the 95% interval of the mean is over."""

    mean: float
    sd: float | None  # over n - 1; None for one seed
    seeds: int
    low: float | None = None
    high: float | None = None
    covers: Coverage = "items"


@dataclass(frozen=True)
class SeedRow:
    """One metric: its spread in each group, and each later group's finding against the first."""

    metric: str
    unit: str
    meaning: str
    spreads: list[SeedSpread | None]  # None: not measured in every run of that group
    against: list[Finding]


def seed_groups(runs: list[RunEvidence]) -> list[SeedGroup]:
    """Return the runs by all that is the same but the seed, in their order.

    Of runs with the same seed the first one counts. None where each run is alone.
    """
    found: dict[str, dict[int, RunEvidence]] = {}
    for run in runs:
        found.setdefault(_identity(run), {}).setdefault(run.recipe.get("seed", 0), run)
    groups = [SeedGroup([members[seed] for seed in sorted(members)]) for members in found.values()]
    return groups if any(len(group.runs) > 1 for group in groups) else []


def _identity(run: RunEvidence) -> str:
    """Return the digest of what runs of one group share: recipe, files, base model, code."""
    recipe = {key: value for key, value in run.recipe.items() if key not in IDENTITY}
    is_made = run.recipe.get("model", {}).get("base") == QUICKSTART  # with its files, by the seed
    checked = run.stages.get(VALIDATE.name)
    files = checked.inputs if checked and not is_made else {}
    code = sorted({str(stage.spec.get("code")) for stage in run.stages.values()})
    return digest_json([recipe, files, code])


def seed_rows(groups: list[SeedGroup]) -> list[SeedRow]:
    """Return a row per final metric; their verdicts are corrected together."""
    names = metric_names([run for group in groups for run in group.runs])
    rows = [(name, [compared(name, groups[0], group) for group in groups[1:]]) for name in names]
    made = iter(corrected([found for _, against in rows for found in against]))
    return [
        _row(name, [spread(name, group) for group in groups], [next(made) for _ in against])
        for name, against in rows
    ]


def _row(metric: str, spreads: list[SeedSpread | None], against: list[Finding]) -> SeedRow:
    about = METRICS.get(metric)
    unit, meaning = (about.unit, about.meaning) if about else ("", "")
    return SeedRow(metric, unit, meaning, spreads, against)


def spread(metric: str, group: SeedGroup) -> SeedSpread | None:
    """Return a metric's mean, standard deviation and interval over the seeds of a group."""
    values = _values(metric, group)
    if values is None:
        return None
    if len(values) == 1:
        alone = estimate(metric, group.runs[0])
        assert alone is not None  # it has a value
        return SeedSpread(alone.value, None, 1, alone.low, alone.high)
    table_SN = item_table(metric, group.runs)
    covers: Coverage = "seeds" if table_SN is None else "seeds and items"
    found = crossed([(1, _column(values) if table_SN is None else table_SN)])
    return SeedSpread(mean(values), stdev(values), len(values), found.low, found.high, covers)


def compared(metric: str, first: SeedGroup, second: SeedGroup) -> Finding:
    """Compare one metric of two groups: the difference second - first and its verdict.

    Groups with the same seeds are paired by seed.
    """
    before, after = _values(metric, first), _values(metric, second)
    if before is None or after is None:
        lacking = first if before is None else second
        return Finding("missing", note=f"not measured in every run of {lacking.name}")
    if len(before) == len(after) == 1:
        return with_better_side(metric, finding(metric, first.runs[0], second.runs[0]))
    pairs = _pairs(first, second)
    if all(same_stage_run(metric, *pair) for pair in pairs):
        return Finding("identical", 0.0, note="the same finished stages serve both groups")
    if reason := next(filter(None, (no_common_scale(metric, *pair) for pair in pairs)), None):
        return Finding("not comparable", note=reason)
    if min(len(before), len(after)) == 1:
        lacking = first if len(before) == 1 else second
        note = f"one seed of {lacking.name}: nothing shows how much seeds differ"
        return Finding("no interval", mean(after) - mean(before), note=note)
    return with_better_side(metric, _difference(metric, first, second))


def _difference(metric: str, first: SeedGroup, second: SeedGroup) -> Finding:
    table_SN = item_table(metric, [*first.runs, *second.runs])
    if table_SN is None:
        table_SN = _column([run.metrics[metric].value for run in (*first.runs, *second.runs)])
    before_SN, after_SN = table_SN[: len(first.runs)], table_SN[len(first.runs) :]
    blocks: list[Block] = [(1, after_SN), (-1, before_SN)]
    method = f"{len(first.runs)} and {len(second.runs)} seeds"
    if first.seeds == second.seeds:
        blocks, method = [(1, after_SN - before_SN)], f"{len(first.runs)} seeds, paired"
    found, items = crossed(blocks), table_SN.shape[1]
    return _as_finding(found, items if items > 1 else None, f"t interval over {method}")


def _as_finding(found: CrossedEstimate, items: int | None, method: str) -> Finding:
    if items is not None:
        method += f", and {items:,} items"
    same = found.low == found.high == 0
    return Finding(
        "identical" if same else verdict_on(found.low, found.high),
        found.value,
        found.low,
        found.high,
        method=method,
        p_value=found.p_value,
        covers="seeds" if items is None else "seeds and items",
    )


def _pairs(first: SeedGroup, second: SeedGroup) -> list[tuple[RunEvidence, RunEvidence]]:
    """Return the pairs of runs that are compared: of one seed, or each with each."""
    if first.seeds == second.seeds:
        return list(zip(first.runs, second.runs, strict=True))
    return [(one, other) for one in first.runs for other in second.runs]


def _values(metric: str, group: SeedGroup) -> list[float] | None:
    """Return the metric of each run, None where a run lacks it."""
    found = [run.metrics.get(metric) for run in group.runs]
    values = [one.value for one in found if one is not None]
    return values if len(values) == len(found) else None


def _column(values: list[float]) -> np.ndarray:
    return np.array(values)[:, None]

"""The comparisons that a sweep makes: each setting with the first one, over the same items.

Runs that differ in the seed alone are one setting. All verdicts of a sweep are corrected together
(Benjamini and Hochberg), because a grid of many runs and metrics finds a difference by chance.
"""

from dataclasses import replace

from tasks.analysis.run_evidence import from_record
from tasks.analysis.seed_groups import SeedGroup, compared, spread
from tasks.analysis.significance import corrected
from tasks.records.workspace import Workspace
from tasks.sweeps.figures import SEED, value_text
from tasks.sweeps.sweep import Sweep, SweepFinding, SweepSpread, records_of


def with_findings(workspace: Workspace, sweep: Sweep) -> Sweep:
    """Return the sweep with the comparison of its settings, from the items of the runs that ended.

    sweep: with its rows. A setting whose runs all failed is left out.
    """
    groups = _groups(workspace, sweep)
    metrics = sweep.metrics
    spreads = [
        SweepSpread(setting=setting, metric=metric, **vars(one))
        for setting, group in groups.items()
        for metric in metrics
        if len(group.runs) > 1 and (one := spread(metric, group))
    ]
    baseline, *others = groups or [""]
    made = [(other, metric) for other in others for metric in metrics]
    found = [compared(metric, groups[baseline], groups[other]) for other, metric in made]
    findings = [
        SweepFinding(setting=setting, metric=metric, baseline=baseline, **vars(each))
        for (setting, metric), each in zip(made, corrected(found), strict=True)
    ]
    return sweep.model_copy(update={"spreads": spreads, "findings": findings})


def _groups(workspace: Workspace, sweep: Sweep) -> dict[str, SeedGroup]:
    """Return the runs that finished or were refused, by the values of the keys beside the seed."""
    records = records_of(workspace, sweep)
    found: dict[str, SeedGroup] = {}
    for row in sweep.rows:
        if row.state in ("finished", "refused"):
            run = replace(from_record(records[row.label]), name=row.label)
            found.setdefault(_setting(row.values), SeedGroup([])).runs.append(run)
    return found


def _setting(values: dict) -> str:
    """Return the keys and values of a row as text, without the seed."""
    return ", ".join(f"{key}={value_text(v)}" for key, v in values.items() if key != SEED) or SEED

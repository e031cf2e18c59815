"""Held-out rows that gates of later stages need, compared with those that the data have."""

from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path

from rlhf_core.benchmarks.subsets import subset_of, subsets_of
from rlhf_core.config import Recipe
from rlhf_core.config.decidable import rules_of, samples_needed
from rlhf_core.data.splits import load_split
from rlhf_core.errors import BadInput
from rlhf_core.stage_catalogue import VALIDATE
from tasks.execution.stage_calls import ask

DRAWN = "rlhf_core.batching.batch:places"  # of the rows that are measured


def require_samples(
    recipe: Recipe, validated: Mapping[str, float], is_wanted: Callable[[str], bool]
) -> None:
    """Raise BadInput for a gate of a wanted stage that needs more rows than are held out.

    validated: metrics of the stage validate. The gate would refuse whatever comes, after every
    stage before it has trained.
    """
    for gate, stage, split, least in samples_needed(recipe):
        found = validated.get(f"{VALIDATE.metric_prefix}/{split}")
        if found is not None and found < least and is_wanted(stage):
            raise BadInput(
                f"{gate} needs {least} items, and {split} has {found:g} rows: the gate would refuse"
                " whatever comes. Add held-out data, or lower the least number of the gate."
            )


def require_subsets(recipe: Recipe, comparisons: Path, is_wanted: Callable[[str], bool]) -> None:
    """Raise BadInput for a gate on a subset of which the held-out comparisons have too few pairs.

    comparisons: the held-out split, of which reward.max_heldout pairs are measured.
    """
    gated = [
        (gate, subset, rule.min_n)
        for gate, rule in rules_of(recipe)
        for metric in (rule.metric, rule.minus)
        if metric and (subset := subset_of(metric)) and is_wanted(rule.stage)
    ]
    if not gated:
        return
    limit, seed = recipe.reward.max_heldout, recipe.data.split_seed
    held = load_split(comparisons)
    rows = [held[i] for i in ask(DRAWN, len(held), limit, seed=seed)]
    found = Counter(filter(None, subsets_of(rows)))
    for gate, subset, least in gated:
        if found[subset] < least:
            known = ", ".join(f"{name} ({n})" for name, n in found.most_common(20)) or "none"
            raise BadInput(
                f"{gate} needs {least} pairs of the subset {subset!r}, and the {len(rows)} held-out"
                f" comparisons that are measured have {found[subset]}; expected a value of their"
                f" column `subset`: {known}. Correct the gate's metric, or add pairs to"
                " data.comparisons_heldout."
            )

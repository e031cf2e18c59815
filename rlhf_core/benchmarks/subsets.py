"""The names of a reward model's metrics on one subset of the held-out comparisons.

Pairs in the form of RewardBench (Lambert et al. 2024, arXiv:2403.13787) have a column `subset`. As
with benchmarks, no table can list the metrics: they are declared by their form,
reward/subset/SUBSET/accuracy, with the ends of the interval as ..._lower and ..._upper.
"""

import re
from collections.abc import Sequence

PREFIX, COLUMN = "reward/subset/", "subset"
MEANING = "Held-out pairwise accuracy on the subset {subset}; a tie is wrong"
_SUBSET = r"\w[\w.-]*"
_NAME = re.compile(rf"{PREFIX}(?P<subset>{_SUBSET})/accuracy(?P<end>_lower|_upper)?")


def subset_metric(subset: str) -> str:
    """Return the name of the accuracy on a subset."""
    return f"{PREFIX}{subset}/accuracy"


def subset_of(metric: str) -> str | None:
    """Return the subset that a metric is of; None for another metric."""
    found = _NAME.fullmatch(metric)
    return found["subset"] if found else None


def meaning_of(metric: str) -> str | None:
    """Return the meaning of a subset's metric, one phrase; None for another metric."""
    found = _NAME.fullmatch(metric)
    if found is None:
        return None
    end = {"_lower": "Lower", "_upper": "Upper"}.get(found["end"])
    text = MEANING.format(subset=found["subset"])
    return f"{end} end of the 95% Wilson interval: {text}" if end else text


def subsets_of(rows: Sequence[dict]) -> list[str | None]:
    """Return the subset of each comparison, None where it has none that a metric can be named by.

    Such a name has letters, digits, '_', '-' and '.' alone.
    """
    values = [str(row.get("meta", {}).get(COLUMN) or "") for row in rows]
    return [value if re.fullmatch(_SUBSET, value) else None for value in values]

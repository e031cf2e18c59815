"""Held-out rows that gates of later stages need, compared with those that the data have."""

from collections.abc import Callable, Mapping

from rlhf_core.config import Recipe
from rlhf_core.config.decidable import samples_needed
from rlhf_core.errors import BadInput
from rlhf_core.stage_catalogue import VALIDATE


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

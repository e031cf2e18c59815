"""A plan as a picture: one stacked bar per stage, and a line at the memory of a device."""

from pathlib import Path
from typing import TYPE_CHECKING

from rlhf_core.errors import ConfigError
from rlhf_core.plan.stage_plan import MEMORY_KINDS, StagePlan
from rlhf_core.plan.strategy import GIB
from rlhf_core.rundir import replacing

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FORMATS = (".svg", ".png")
_COLORS = dict(
    zip(
        MEMORY_KINDS,
        ("#4e79a7", "#f28e2b", "#59a14f", "#e15759", "#b07aa1", "#76b7b2", "#9c755f"),
        strict=True,
    )
)
_OVERHEAD = "#bab0ac"


def draw_plans(plans: list[StagePlan], file: Path) -> None:
    """Write `file` (.svg or .png): GiB on one device at each stage's peak, by kind.

    Raises ConfigError for other endings.
    """
    if file.suffix.lower() not in FORMATS:
        raise ConfigError(
            f"--picture {file} ends in {file.suffix or 'nothing'!r}; expected"
            f" {' or '.join(FORMATS)}."
        )
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(9, 1.4 + 0.8 * len(plans)), layout="constrained")
    for row, plan in enumerate(plans):
        _draw_bar(axes, row, plan)
    _draw_scale(axes, plans)
    handles = [plt.Rectangle((0, 0), 1, 1, color=color) for color in (*_COLORS.values(), _OVERHEAD)]
    figure.legend(
        handles,
        [*MEMORY_KINDS, "overhead"],
        loc="outside upper center",
        ncols=len(MEMORY_KINDS) + 1,
        fontsize="small",
        frameon=False,
    )
    with replacing(file) as temporary:
        figure.savefig(temporary, format=file.suffix[1:].lower(), dpi=120)
    plt.close(figure)


def _draw_bar(axes: "Axes", row: int, plan: StagePlan) -> None:
    left = 0.0
    for label, size in _segments(plan):
        color = _COLORS.get(label, _OVERHEAD)
        axes.barh(row, size / GIB, left=left, color=color, edgecolor="white", linewidth=0.5)
        left += size / GIB
    fit = "fits" if plan.fits else f"{-plan.spare / GIB:,.1f} GiB too much"
    axes.text(left, row, f"  {left:,.1f}: {fit}", va="center")


def _draw_scale(axes: "Axes", plans: list[StagePlan]) -> None:
    capacity = plans[0].hardware.capacity / GIB
    axes.axvline(capacity, color="black", linestyle="--", linewidth=1)
    axes.set_yticks(range(len(plans)), [plan.stage for plan in plans])
    axes.invert_yaxis()
    axes.set_xlim(0, 1.35 * max(capacity, *(plan.peak / GIB for plan in plans)))
    axes.set_xlabel(
        f"GiB on each of {plans[0].strategy.devices} device(s) at the peak; dashed: the"
        f" {capacity:,.1f} GiB it has"
    )


def _segments(plan: StagePlan) -> list[tuple[str, float]]:
    held = [part for part in plan.parts if part.held_in(plan.peak_phase)]
    by_kind = [
        (kind, sum(part.bytes for part in held if part.kind == kind)) for kind in MEMORY_KINDS
    ]
    return [*by_kind, ("overhead", plan.hardware.overhead)]

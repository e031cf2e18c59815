"""`python -m flows.sweeps.learning_curves`: the quickstart's algorithms over seeds, in one figure.

The algorithms are PPO, GRPO, RLOO and DPO. Each is a sweep over the seed: finished runs are not
repeated, an interrupted sweep continues.
"""

import json
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rlhf_core.errors import RLHFError

if TYPE_CHECKING:
    from flows.sweeps.grid import SweepRequest
    from tasks.sweeps.figures import Spread
    from tasks.sweeps.learning_curves import RowsByAlgorithm

WITHOUT_CRITIC = ["ppo.critic_warmup_steps=0", "ppo.group_size=4"]
ALGORITHMS = {  # recipe and settings by name
    "PPO": ("quickstart", []),
    "GRPO": ("quickstart", ["ppo.advantage=grpo", *WITHOUT_CRITIC]),
    "RLOO": ("quickstart", ["ppo.advantage=rloo", *WITHOUT_CRITIC]),
    "DPO": ("quickstart-dpo", []),
}


def main(
    seeds: Annotated[int, typer.Option(min=1, help="Seeds 1 to this one")] = 5,
    jobs: Annotated[int, typer.Option(min=1, help="Runs at once")] = 1,
    only: Annotated[
        list[str] | None, typer.Option(help="One of PPO, GRPO, RLOO, DPO; repeatable")
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="For every run")
    ] = None,
) -> None:
    """Make the missing runs, then write learning-curves.png and .json into the workspace."""
    from flows.display.run import quiet_libraries

    quiet_libraries()
    from flows.sweeps.grid import make_plan
    from flows.sweeps.sweep import run_sweep
    from tasks.records.workspace import Workspace

    plans = {
        name: make_plan(recipe, _request(own + (settings or []), seeds))
        for name, (recipe, own) in _chosen(only).items()
    }
    found: RowsByAlgorithm = {}
    error = None
    for name, plan in plans.items():
        result = run_sweep(plan, jobs, _announcer(name))
        found[name], error = result.sweep.rows, error or result.error
        write(found, Workspace.here().home)
    if error:
        raise error


def _announcer(name: str) -> Callable[[str], None]:
    return lambda text: print(f"{name}: {text}", file=sys.stderr, flush=True)


def _chosen(only: list[str] | None) -> dict[str, tuple[str, list[str]]]:
    if unknown := sorted(set(only or []) - set(ALGORITHMS)):
        raise typer.BadParameter(f"{', '.join(unknown)}: expected some of {', '.join(ALGORITHMS)}")
    return {name: value for name, value in ALGORITHMS.items() if not only or name in only}


def _request(settings: list[str], seeds: int) -> "SweepRequest":
    from flows.sweeps.grid import SweepRequest

    over = [f"seed={','.join(map(str, range(1, seeds + 1)))}"]
    return SweepRequest(over=over, settings=settings, until="evaluate", metrics=[], max_runs=seeds)


def write(found: "RowsByAlgorithm", folder: Path) -> list[Path]:
    """Write the figure and its numbers, and print a line on the last algorithm.

    They cover the algorithms that have run so far.
    """
    from rlhf_core.rundir import replacing, write_atomically
    from tasks.sweeps.learning_curves import learning_figure, summary

    files = [folder / "learning-curves.png", folder / "learning-curves.json"]
    with replacing(files[0]) as file:
        learning_figure(found).savefig(file, format="png", dpi=120)
    rows = summary(found)
    values = [row | {key: row[key] and asdict(row[key]) for key in ("gain", "kl")} for row in rows]
    write_atomically(files[1], json.dumps(values, indent=2))
    last = rows[-1]
    gain = "none was evaluated"
    if last["gain"] is not None:
        gain = f"true gain {_text(last['gain'])} at {_text(last['kl'])} nats"
    print(
        f"{last['algorithm']}: {gain}; raised in {last['raised']} of {last['seeds']} seeds. Figure:"
        f" {files[0]}"
    )
    return files


def _text(spread: "Spread") -> str:
    deviation = "" if spread.high is None else f" (sd {spread.high - spread.value:.2g})"
    return f"{spread.value:.3g}{deviation}"


if __name__ == "__main__":
    try:
        typer.run(main)
    except RLHFError as ended:
        print(f"learning curves: {ended}", file=sys.stderr)
        sys.exit(ended.exit_code)

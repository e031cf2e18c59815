"""Run a recipe for several values of its keys."""

import sys
from collections.abc import Mapping, Sequence
from os import PathLike
from typing import TYPE_CHECKING, TypedDict, Unpack

from flows.api.arguments import (
    path_text,
    require_count,
    require_known,
    require_texts,
    require_values,
)
from flows.api.session import begin
from flows.api.setting_texts import SettingValues, setting_texts, toml_value
from rlhf_core.errors import ConfigError
from rlhf_core.stage_catalogue import EVALUATE, STAGES

if TYPE_CHECKING:
    from flows.sweeps.grid import SweepRequest
    from flows.sweeps.sweep import SweepResult

MOST_RUNS = 32


class SweepOptions(TypedDict, total=False):
    """The options of a sweep besides its keys.

    until: stop each run after this stage (default: evaluate). metrics: shown and plotted (default:
    score gain, KL, independent gain). jobs: runs at the same time (default: one per GPU; 1 on a
    CPU). max_runs: refuse a larger grid (default: 32).
    """

    until: str
    metrics: Sequence[str]
    jobs: int
    max_runs: int


def sweep(
    recipe: str | PathLike[str],
    over: Mapping[str, Sequence[object]],
    settings: SettingValues = None,
    *,
    check: bool = True,
    **options: Unpack[SweepOptions],
) -> "SweepResult":
    """Run a recipe for several values of its keys, as `rlhf sweep` does; nothing is promoted.

    over: a key and its values, e.g. {"ppo.beta": [0.02, 0.1]}; every combination is run. Stages
    that runs share are run once, and a gate's refusal is a result. The same call resumes a sweep
    that was interrupted.

    The result has `frame()`, a row per run, and `sweep`, with findings over the first setting.
    Raises BadInput for a recipe of the grid that is not valid, and RLHFError where runs have
    failed; with check=False the result is returned, with its `error`.
    """
    name = path_text("the recipe", recipe)
    require_known(options, SweepOptions)
    require_values(over)
    require_count("jobs", options.get("jobs"))
    require_count("max_runs", options.get("max_runs"))
    require_texts("a metric", options.get("metrics", ()))
    until = options.get("until", EVALUATE.name)
    if until not in STAGES:
        raise ConfigError(f"there is no stage {until!r}; expected one of {', '.join(STAGES)}.")
    begin(writing=True)
    from flows.sweeps.grid import SweepRequest

    request = SweepRequest(
        [
            f"{key}={','.join(toml_value(key, one) for one in values)}"
            for key, values in over.items()
        ],
        setting_texts(settings),
        until,
        list(options.get("metrics", ())),
        options.get("max_runs", MOST_RUNS),
    )
    result = run_request(name, request, options.get("jobs"))
    if check and result.error:
        raise result.error
    return result


def run_request(recipe: str, request: "SweepRequest", jobs: int | None) -> "SweepResult":
    """Make the runs of a sweep that are missing; say on standard error what it does."""
    begin(writing=True)
    from flows.sweeps.grid import make_plan
    from flows.sweeps.runs import default_jobs
    from flows.sweeps.sweep import run_sweep

    plan = make_plan(recipe, request)
    return run_sweep(plan, jobs or default_jobs(), lambda text: print(text, file=sys.stderr))

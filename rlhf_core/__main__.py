"""Run one stage: `python -m rlhf_core STAGE SPEC RUN_DIR`.

Exit codes: 0 done, 2 refused, anything else infrastructure.
"""

import json
import os
import platform
import shutil
import sys
import time
import traceback
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

from rlhf_core.config.stage_configs import StageConfig
from rlhf_core.engine.continued import continued_from
from rlhf_core.errors import BadInput, GateRefused, RLHFError, StageFailed
from rlhf_core.evidence.final_metrics import require_final
from rlhf_core.interpreter.rare_collection import collecting_rarely
from rlhf_core.metrics import require_declared
from rlhf_core.process_end import run_and_end
from rlhf_core.ranks import is_rank_zero, ranks
from rlhf_core.rundir import (
    Artifact,
    Output,
    RunDir,
    StageResult,
    StageSpec,
    finite,
    read_result,
    write_atomically,
)
from rlhf_core.stage_catalogue import stage_named
from rlhf_core.template_date import template_date

REFUSED = 2


def environment() -> dict[str, str]:
    """Return what the numbers depend on besides the spec: versions and hardware."""
    from importlib.metadata import version

    packages = ("torch", "transformers", "deepspeed", "datasets", "great-expectations")
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpus": str(os.cpu_count()),
    } | {name: version(name) for name in packages}


def run_stage(spec: StageSpec, run: RunDir) -> StageResult | None:
    """Run a stage to its result.json; return at once when that exists.

    Every rank runs it; rank 0 checks the inputs and writes. Raises BadInput, GateRefused.
    """
    if finished := read_result(run.path):
        return finished
    _require_ranks(spec)
    started = time.monotonic()
    if is_rank_zero():
        for item in spec.inputs.values():
            item.verified()
    if ranks() == 1:  # whoever starts several removes it: another rank may have written its own
        (run.path / "failure.json").unlink(missing_ok=True)
    _leave_out_sklearn()
    stage = stage_named(spec.stage)
    with collecting_rarely():
        entry = resolve_name(stage.entry)
    typed = _with_config(spec, resolve_name(stage.config))
    with template_date(typed.config.template_date):
        output: Output = entry(typed, run)
    return _write_result(spec, run, output, time.monotonic() - started) if is_rank_zero() else None


def _leave_out_sklearn() -> None:
    """Have transformers do without scikit-learn, a seventh of what a stage takes to import.

    transformers needs it for one option of assisted generation, which no stage uses. Whoever
    imports it elsewhere, as benchmarks do, gets it.
    """
    import transformers.utils

    setattr(transformers.utils, "is_sklearn_available", lambda: False)  # noqa: B010


def _with_config(spec: StageSpec[Any], config: type[StageConfig]) -> StageSpec[StageConfig]:
    values = spec.config if isinstance(spec.config, dict) else spec.config.model_dump(mode="json")
    return spec.model_copy(update={"config": config.model_validate(values)})


def _require_ranks(spec: StageSpec) -> None:
    expected = spec.ranks
    if ranks() != expected:
        raise StageFailed(
            f"stage {spec.stage} runs as one of {ranks()} ranks (WORLD_SIZE), its spec says"
            f" {expected}; start it with the command that `rlhf run RECIPE --print-launch` prints"
        )


def _write_result(spec: StageSpec, run: RunDir, output: Output, seconds: float) -> StageResult:
    require_declared(output.metrics)
    require_final(output.metrics, output.intervals)
    if not finite(output.metrics):
        bad = {name: value for name, value in output.metrics.items() if not finite({name: value})}
        raise GateRefused(
            f"{spec.stage} ended with non-finite metrics {bad}; expected finite numbers."
        )
    outputs = {}
    for name, relative in output.outputs.items():
        outputs[name] = Artifact(
            path=Path(relative), digest=Artifact.of(run.path / relative).digest
        )
    result = StageResult(
        stage=spec.stage,
        digest=spec.digest,
        outputs=outputs,
        metrics=output.metrics,
        counts=output.counts,
        intervals=output.intervals,
        files=output.files,
        seconds=seconds,
        environment=environment() | continued_from(run.path),
    )
    write_atomically(run.path / "result.json", result.model_dump_json(indent=2))
    # checkpoints served to resume, and take several times the model's size; tokens likewise
    for folder in (run.checkpoints, run.tokens):
        shutil.rmtree(folder, ignore_errors=True)
    return result


def main(argv: list[str]) -> int:
    """Run the stage of a spec in this process; return the exit code."""
    stage, spec_path, run_path = argv
    spec: StageSpec[Any] = StageSpec.model_validate_json(
        Path(spec_path).read_text(encoding="utf-8")
    )
    run = RunDir(Path(run_path).absolute())  # libraries refuse relative ones
    try:
        run_stage(spec, run)
    except (BadInput, GateRefused) as error:
        failure = {"stage": stage, "error": type(error).__name__, "message": str(error)}
        return _refuse(run, failure | {"code": error.code})
    except ImportError as error:  # the same at every try
        traceback.print_exc()
        message = (
            f"stage {stage} cannot import what it needs: {error}. A package is missing or damaged;"
            " rlhf doctor says which, and how to install it."
        )
        return _refuse(run, {"stage": stage, "error": BadInput.__name__, "message": message})
    except RLHFError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def _refuse(run: RunDir, failure: dict[str, str]) -> int:
    """Write why the stage must not be tried again, and return its exit code."""
    write_atomically(run.path / "failure.json", json.dumps(failure))
    print(f"{failure['error']}: {failure['message']}", file=sys.stderr)
    return REFUSED


if __name__ == "__main__":
    run_and_end(lambda: main(sys.argv[1:]))

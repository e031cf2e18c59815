"""`python promoter.py`: load the libraries once and fork for every promotion.

A line of JSON in: {name, environment, jobs: [{action, kind, ..., kill_after: n}]}; a line out: a
result per job. Without `kind`, the kind of model is that of the name. The jobs of a line start
together. `kill_after` kills the process with -9 after its n-th write to the registry (0: before the
first).
"""

import importlib
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from mlflow import MlflowClient

from rlhf_core.errors import RLHFError
from tasks.promotion import aliases, promotion

for _name in (  # what a promotion imports on its way: once here, not in every child
    "rlhf_core.modeling.smoke",
    "transformers.models.llama.modeling_llama",
    "mlflow.pyfunc.model",
    "alembic.command",
    "mlflow.store.tracking.sqlalchemy_workspace_store",
    "mlflow.store.model_registry.sqlalchemy_workspace_store",
):
    importlib.import_module(_name)

WRITES = (
    "create_registered_model",
    "create_model_version",
    "set_model_version_tag",
    "set_registered_model_alias",
    "delete_registered_model_alias",
)
ACTIONS = {"promote": promotion.promote, "rollback": promotion.rollback}
HEAD_START = 0.5  # seconds until all children are there


def die_after(count: int) -> None:
    """Kill this process after so many writes to the registry."""
    left = [count]

    def counted(write: Callable) -> Callable:
        def call(*args: object, **kwargs: object) -> object:
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            left[0] -= 1
            try:
                return write(*args, **kwargs)
            finally:
                if left[0] == 0:
                    os.kill(os.getpid(), signal.SIGKILL)

        return call

    for name in WRITES:
        setattr(MlflowClient, name, counted(getattr(MlflowClient, name)))


def work(name: str, job: dict) -> dict:
    """Return the result of one job."""
    if "kill_after" in job:
        die_after(job.pop("kill_after"))
    action = job.pop("action")
    try:
        where, kind = aliases.open_registry(name, must_exist=action != "history")
        kind = job.pop("kind", kind)
        if action == "history":
            return {"problems": promotion.history(where).problems}
        return vars(ACTIONS[action](where, promotion.PromotionRequest(kind=kind, **job)))
    except RLHFError as error:
        return {"error": str(error), "kind": type(error).__name__}


def fork(name: str, job: dict, report: Path, start: float) -> int:
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        time.sleep(max(0.0, start - time.monotonic()))
        report.write_text(json.dumps(work(name, job)))
        code = 0
    finally:
        sys.stderr.flush()
        os._exit(code)


def main() -> None:
    print("ready", flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        os.environ.pop("MLFLOW_TRACKING_URI", None)
        os.environ.update(order["environment"])
        with tempfile.TemporaryDirectory() as folder:
            start = time.monotonic() + (HEAD_START if len(order["jobs"]) > 1 else 0.0)
            files = [Path(folder) / str(number) for number in range(len(order["jobs"]))]
            children = [
                fork(order["name"], job, file, start)
                for job, file in zip(order["jobs"], files, strict=True)
            ]
            codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
            reports = [json.loads(file.read_text()) if file.exists() else {} for file in files]
        results = [report | {"code": code} for report, code in zip(reports, codes, strict=True)]
        print(json.dumps(results), flush=True)


if __name__ == "__main__":
    main()

"""`rlhf down`: stop the local platform."""

import json
import sys
from functools import partial
from typing import TYPE_CHECKING

from flows.cli.options import AsJson

if TYPE_CHECKING:
    from tasks.records.workspace import Workspace


def down(as_json: AsJson = False) -> None:
    """Stop what `rlhf up` has started, the worker and its runs first.

    Nothing is lost: a run resumes when it is started again. Models that are live behind its MLflow
    server are stopped too.
    """
    from flows.platform import start
    from tasks.records.workspace import Workspace

    workspace = Workspace.here()
    stopped = [*_stop_live(workspace), *start.down(workspace)]
    if as_json:
        print(json.dumps({"stopped": stopped}))
    else:
        print("stopped: " + ", ".join(stopped) if stopped else "no platform runs in this workspace")


def _stop_live(workspace: "Workspace") -> list[str]:
    """Stop the models that are live behind this platform's MLflow server; return their names."""
    from flows.platform import state
    from flows.platform.live.state import live_folders

    platform, places = state.read(workspace), live_folders(workspace)
    if platform is None or not places:
        return []
    from flows.platform.live import control  # MLflow, which takes seconds

    behind = [p for p in places if control.is_behind(p, platform.mlflow_url)]
    for place in behind:
        control.stop(place, partial(print, file=sys.stderr))
    return [f"live {place.name}" for place in behind]

"""`rlhf down`: stop the local platform."""

import json

from flows.cli.options import AsJson


def down(as_json: AsJson = False) -> None:
    """Stop what `rlhf up` has started, the worker and its runs first.

    Nothing is lost: a run resumes when it is started again.
    """
    from flows.platform import start
    from tasks.records.workspace import Workspace

    stopped = start.down(Workspace.here())
    if as_json:
        print(json.dumps({"stopped": stopped}))
    else:
        print("stopped: " + ", ".join(stopped) if stopped else "no platform runs in this workspace")

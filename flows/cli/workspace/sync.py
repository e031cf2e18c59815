"""`rlhf sync`: forward to MLflow what it has not got yet."""

from flows.cli.options import AsJson, Debug
from flows.cli.output import print_json
from flows.settings import quiet_libraries
from rlhf_core.errors import RLHFError


def sync(as_json: AsJson = False, debug: Debug = False) -> None:
    """Forward to MLflow what runs recorded while it was down."""
    quiet_libraries()
    from tasks.sweeps.tracking import sync as forward_all

    report = forward_all()
    if as_json:
        print_json(vars(report))
    else:
        print(f"forwarded: {', '.join(report.forwarded) or 'nothing'}")
    if report.waiting:
        raise RLHFError(
            f"{', '.join(report.waiting)} must wait: {report.problem}. Start MLflow and run rlhf"
            " sync again."
        )

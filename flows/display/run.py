"""Run a recipe as the command line does: quiet libraries, a live display, every end an outcome."""

import contextlib
import logging
import signal
import sys
from collections.abc import Iterator

from rich.console import Console

from flows import environment
from flows.display.data_report import report_of
from flows.display.outcome import RunOutcome
from flows.platform import prefect_address
from flows.platform.pages import NO_ACCOUNT, answers, refuses_account
from flows.progress.display import LiveDisplay
from flows.settings import quiet_libraries
from rlhf_core.config import Recipe, load_recipe, read_recipe
from rlhf_core.errors import BadInput, RLHFError
from tasks.execution import dropped_signals
from tasks.mirror.remote import Remote
from tasks.records import events
from tasks.records.run_record import RECIPE_FILES, Record, find_records
from tasks.records.workspace import Workspace
from tasks.run_result import PipelineResult, rows_of
from tasks.tracking.address import redacted, require_address


def run_recipe(
    name: str,
    settings: list[str],
    span: tuple[str | None, str | None],
    *,
    with_report: bool = False,
) -> RunOutcome:
    """Run the recipe's stages from span[0] to span[1] with the display on standard error.

    Raises BadInput for what is wrong before anything runs; later errors are in the outcome.
    """
    recipe = load_recipe(name, settings)
    files = read_recipe(name).files
    workspace = Workspace.here()
    workspace.require_writable()
    require_address(workspace.tracking_uri)
    Remote.here()  # raises BadInput for an address that cannot be one
    _tell_unusable_proxies()
    quiet_libraries()
    display = LiveDisplay(Console(stderr=True))
    end = events.subscribe(display)
    of_this_run = RECIPE_FILES.set(files)
    result, error = None, None
    try:
        with _ending_at_ctrl_c(), contextlib.redirect_stdout(sys.stderr), display:
            result = _result(recipe, *span)
    except RLHFError as raised:
        error = raised
    except Exception as raised:
        _blame_prefect_server(raised)
        raise
    except BaseException:  # Ctrl-C, SIGTERM: the stage's process group is ended by now
        print("stopped; the same command goes on where this run was", file=sys.stderr)
        raise
    finally:
        end()
        RECIPE_FILES.reset(of_this_run)
    record = _record(display.record_id)
    rows = rows_of(record) if record else []
    return RunOutcome(
        rows,
        result,
        error,
        report_of(rows) if with_report else None,
        display.told,
        record.report if record else None,
        record,
    )


def _record(record_id: str | None) -> Record | None:
    """Return the record of the run that was seen; None for one refused before it began."""
    return find_records(Workspace.here(), record_id)[0] if record_id else None


@contextlib.contextmanager
def _ending_at_ctrl_c() -> Iterator[None]:
    """Let Ctrl-C end in a KeyboardInterrupt, also where Prefect raises an error of its own."""
    pressed = []

    def note(*_: object) -> None:
        pressed.append(True)
        logging.raiseExceptions = False  # else Prefect's log handler complains to standard error
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, note)
    # Prefect raises SIGTERM once more when it has cleaned up; without a handler it would end this
    # process before the display has ended.
    before_term = signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    dropped_signals.listen()  # the first stage raises what is dropped before it
    try:
        yield
    except Exception as error:
        if pressed:
            raise KeyboardInterrupt from error
        raise
    finally:
        signal.signal(signal.SIGINT, before)
        signal.signal(signal.SIGTERM, before_term)


def _result(recipe: Recipe, first: str | None, last: str | None) -> PipelineResult:
    """Run the pipeline; a lasting server gives its first stage devices before it begins."""
    with contextlib.ExitStack() as begun:
        if not prefect_address.is_named():
            from tasks import first_stage

            begun.enter_context(first_stage.started(recipe, first, last))
        from flows.pipeline import run_pipeline

        return run_pipeline(recipe, from_stage=first, until=last)


def _blame_prefect_server(error: Exception) -> None:
    """Raise BadInput when a server is configured that does not answer or refuses the account."""
    address = prefect_address.configured()
    if address is None:
        return
    if refuses_account(error):
        raise BadInput(NO_ACCOUNT.format(url=redacted(address.url))) from error
    if not answers(address.url.rstrip("/") + "/health"):
        raise BadInput(
            f"the Prefect server at {redacted(address.url)} does not answer"
            f" ({type(error).__name__}); the address is set by {address.place}. Start the"
            f" server, or {address.fix}.",
            code="RLHF-S004",
        ) from error


def _tell_unusable_proxies() -> None:
    for name, reason in environment.unusable_proxies.items():
        print(f"rlhf: {name} is not used: {reason}", file=sys.stderr)

"""The entry point of `rlhf`: the table of commands, each imported when it is called, and errors."""

import importlib
import inspect
import io
import sys
import traceback
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperCommand

from flows.cli import process, version
from flows.settings import debugging
from rlhf_core.errors import PromotionRefused, RLHFError
from rlhf_core.interpreter.rare_collection import collect_rarely
from rlhf_core.process_end import run_and_end

EXIT_CODES = (
    "Exit codes: 0 done, 2 bad input or configuration, 3 a gate refused, 1 anything else. A code in"
    " brackets, such as RLHF-F001: rlhf explain RLHF-F001."
)
# panel of the help page, command, first line of its docstring. The command NAME of the panel PANEL
# is the function NAME in flows/cli/PANEL/NAME.py, with underscores for hyphens and blanks. A name
# of two words is a command of the group that its first word names.
COMMANDS = {
    "runs": {
        "run": "Run the stages of a recipe: skip finished ones, resume an interrupted one.",
        "validate": "Check a recipe and its data files without training; print the data report.",
        "inspect": "Check that a model can be used, or show the tokens that the stages read.",
        "status": "Show the platform, the latest pipeline runs and the state of their stages.",
        "gates": "Show every gate of a run: value, interval, samples, rule, verdict and reason.",
        "compare": "Compare runs with the first one: settings, metrics, plots and replies.",
        "leaderboard": "Rank runs by a metric, with intervals, each compared with the first one.",
        "sweep": "Run a recipe for several values of its keys, and plot metrics against them.",
        "iterate": "Run rounds of labelling and training, each from the champion so far.",
        "cost": "Sum up what runs took: hours of cores and GPUs, energy, money by a price table.",
        "runs rm": "Remove runs: record, report, MLflow runs, run directories of their own.",
        "trace": "Run one PPO batch and show its tensors and tokens, or write a run's timeline.",
        "reward-report": "Report where a run's reward model is right, and where it is wrong.",
        "plan": "Estimate the memory of every stage on each device, and check that it fits.",
        "plan-contest": "Say how many held-out prompts a contest with the champion needs.",
    },
    "models": {
        "approve": "Approve the policy of a run that waits for approval, or reject it.",
        "promote": "Make a version the champion, and for a policy its reward model with it.",
        "rollback": "Make the previous champion the champion again, after the same checks.",
        "history": "List every attempt to change the champion.",
        "audit": "List every attempt, approval, override and contest, with account and evidence.",
        "access": "Part the accounts that train, promote and approve on MLflow's server.",
        "heldout": "Show how often contests used a recipe's held-out prompts, or offer fresh ones.",
        "lineage": "Trace a model back to its data, or data to every model that saw it.",
    },
    "labels": {
        "label open": "Have people compare replies in MLflow: pick pairs, a queue per person.",
        "label status": "Show how far a campaign is: per person, disputes, alpha.",
        "label reassign": "Give pairs of a campaign to others: who leaves, disputes, new people.",
        "label close": "Turn a campaign's votes into comparisons, and end its queues.",
        "label import": "Turn votes in a file (Label Studio, CSV, JSON Lines) into comparisons.",
        "feedback export": "Write people's thumbs on the kept live replies as rows of feedback.",
    },
    "live": {"live": "Serve the champion with vLLM under one address; a candidate beside it."},
    "schedules": {
        "deploy": "Deploy a recipe to a work pool, by cron, data, labels or promotions.",
        "undeploy": "Remove a deployment from Prefect's server, with its schedule and triggers.",
        "schedules": "List the deployments on the Prefect server, their next and latest runs.",
        "serve": "Run recipes by schedule or from Prefect's page in this process, until Ctrl-C.",
        "reap": "Mark runs whose process has died as crashed, and close their MLflow runs.",
    },
    "workspace": {
        "init": "Make a folder for a team: a recipe, functions, their tests, a deployment.",
        "up": "Start Prefect, MLflow, a worker and the team's page, unless they run already.",
        "down": "Stop what `rlhf up` has started, the worker and its runs first.",
        "ui": "Serve MLflow's page and Prefect's page for this workspace, until Ctrl-C.",
        "sync": "Forward to MLflow, and to RLHF_REMOTE, what they missed while they were down.",
        "gc": "Remove old run directories, cached results and reports that nothing needs.",
        "doctor": "Check this machine, and say how to fix what is wrong.",
        "explain": "Explain the code that an error's message ends with, and say what to do.",
        "recipes": "List the recipes that come with the project.",
    },
}
GROUPS = {
    "label": "Have people compare replies, and turn their votes into comparisons.",
    "feedback": "Turn people's thumbs on live replies into data.",
    "runs": "Remove single runs.",
}
# commands that write to the workspace; also to find out what they would do
WRITING = {
    *("run", "validate", "sweep", "iterate", "trace", "runs rm"),
    *("approve", "promote", "rollback", "history", "access", "heldout"),
    *("label open", "label reassign", "label close", "label import"),
    "feedback export",
    *("deploy", "undeploy", "serve", "reap"),
    *("up", "down", "ui", "sync", "gc"),
    "live",
}
app = typer.Typer(
    name="rlhf",
    help=(
        "RLHF from preference data to a promoted policy: prepare, validate, sft, reward, ppo (or"
        " dpo), evaluate, promote."
    ),
    epilog=f"{EXIT_CODES} Runs, records and the tracking store are in ./.rlhf (or RLHF_HOME).",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


class LazyCommand(TyperCommand):
    """A command known by name and first line; its file is imported when the command is parsed."""

    def make_context(self, info_name: Any, args: Any, parent: Any = None, **extra: Any) -> Any:
        """Import the command, and parse its arguments.

        Raises BadInput for a command that writes, where the workspace cannot be written.
        """
        group = getattr(parent, "info_name", None)
        name = f"{group} {self.name}" if group in GROUPS else str(self.name)
        context = load_command(name).make_context(info_name, args, parent, **extra)
        if name in WRITING and not extra.get("resilient_parsing"):  # as completion parses
            from tasks.records.workspace import Workspace

            Workspace.here().require_writable()
        return context


def load_command(name: str) -> TyperCommand:
    """Import the file of a command, and return the command with its arguments and options."""
    (panel,) = (panel for panel, commands in COMMANDS.items() if name in commands)
    function = name.replace("-", "_").replace(" ", "_")
    callback = getattr(importlib.import_module(f"flows.cli.{panel}.{function}"), function)
    paragraphs = (inspect.getdoc(callback) or "").split("\n\n")
    only = typer.Typer(add_completion=False, rich_markup_mode="rich")
    only.command(
        name.rpartition(" ")[2],
        help="\n\n".join(" ".join(text.split()) for text in paragraphs),
        rich_help_panel=panel.capitalize(),
    )(callback)
    command = typer.main.get_command(only)
    assert isinstance(command, TyperCommand)
    return command


def _not_loaded() -> None:
    """Stand for the function of a command until the command is loaded."""


def _grouped(group: str, panel: str) -> typer.Typer:
    """Return the group of commands, made by its first command and listed in that one's panel."""
    if group not in _made:
        _made[group] = typer.Typer(no_args_is_help=True, rich_markup_mode="rich")
        app.add_typer(_made[group], name=group, help=GROUPS[group], rich_help_panel=panel)
    return _made[group]


_made: dict[str, typer.Typer] = {}
for _panel, _commands in COMMANDS.items():
    for _name, _first_line in _commands.items():
        _title = _panel.capitalize()
        _group, _, _last = _name.rpartition(" ")
        _owner = _grouped(_group, _title) if _group else app
        _register = _owner.command(_last, cls=LazyCommand, help=_first_line, rich_help_panel=_title)
        _register(_not_loaded)


@app.callback()
def _use_platform(
    _version: Annotated[
        bool,
        typer.Option(
            "--version",
            callback=version.show,
            is_eager=True,
            help="Print the version, the code's commit or digest, and the lock's digest",
        ),
    ] = False,
) -> None:
    """Use the platform of this workspace where one runs."""
    from flows.platform import state

    state.use()


def run() -> NoReturn:
    """Run the command of this process's arguments, and end the process with its exit code."""
    collect_rarely()
    run_and_end(main)


def main(argv: list[str] | None = None) -> int:
    """Run a command and return its exit code; an error is one message on standard error.

    RLHF_DEBUG=1 or --debug adds the error's traceback.
    """
    process.prepare()
    print_any_text()
    try:
        app(args=argv)
    except PromotionRefused as error:
        return _report(with_code(error), error.exit_code, "refused")
    except RLHFError as error:
        return _report(with_code(error), error.exit_code)
    except Exception as error:
        hint = "" if debugging() else " (add --debug for the traceback)"
        return _report(f"unexpected {type(error).__name__}: {error}{hint}", 1)
    return 0


def print_any_text() -> None:
    """Print a question mark for a letter that the locale's encoding does not have."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="replace")


def with_code(error: RLHFError) -> str:
    """Return the message of an error, and its code where the runbook has a section on it."""
    return f"{error} [{error.code}]" if error.code else str(error)


def _report(message: str, code: int, word: str | None = None) -> int:
    if debugging():
        traceback.print_exc()
    word = word or ("a gate refused" if code == 3 else "error")
    print(f"rlhf: {word}: {message}", file=sys.stderr)
    return code

"""Run the rounds of a loop: label, run the recipe on all labels so far, record the outcome."""

import contextlib
import json
import shlex
from collections.abc import Callable, Iterator

from flows.display.run import quiet_libraries
from flows.iterate.figure import write_page
from flows.iterate.plan import IterationPlan, measures_reward
from flows.iterate.result import IterationResult
from flows.iterate.table import markdown
from flows.sweeps.runs import BAD_INPUT, run_point
from rlhf_core.errors import BadInput, GateRefused, RLHFError
from rlhf_core.stage_catalogue import PROMOTE, VALIDATE
from tasks.iterate.champion import champion_digest, has_splits
from tasks.iterate.iteration import Iteration, RoundLabels, load, save
from tasks.iterate.labelling import labels_of
from tasks.iterate.outcome import has_outcome, newest_record, round_of
from tasks.iterate.tracking import close, forward
from tasks.records.run_record import Record, find_records, record_lock
from tasks.records.workspace import Workspace
from tasks.tracking.address import require_address
from tasks.tracking.client import brief

REFUSED = 3


def run_iteration(plan: IterationPlan, say: Callable[[str], None]) -> IterationResult:
    """Make the rounds that are missing.

    say: prints a line. Raises BadInput when another process makes the same rounds, GateRefused
    where there is no champion to go on from, and what a run that failed has raised.
    """
    quiet_libraries()
    workspace = Workspace.here()
    require_address(plan.iteration.tracking_uri)
    with record_lock(workspace, f"iterate-{plan.iteration.id}") as free:
        if not free:
            raise BadInput(
                f"this very loop, {plan.iteration.name}, is running in another process; wait for"
                " it, or end it first."
            )
        iteration = load(workspace, plan.iteration)
        result = IterationResult(iteration, iteration.folder(workspace), len(iteration.rounds))
        say(_announcement(iteration, result.already_done))
        with _closed_at_error(result):
            while len(result.iteration.rounds) <= plan.iteration.rounds_wanted:
                result.iteration = _with_next_round(workspace, plan, result.iteration, say)
                save(workspace, result.iteration)
                _show(workspace, result)
        if result.page is None:
            _show(workspace, result)
        return result


def _show(workspace: Workspace, result: IterationResult) -> None:
    """Write the page of the rounds so far, and bring it to MLflow if that answers."""
    result.page = write_page(workspace, result.iteration)
    try:
        result.iteration = forward(
            workspace, result.iteration, result.page, markdown(result.iteration)
        )
        result.problem = None
    except Exception as error:  # the rounds are recorded; the next call brings them to MLflow
        result.problem = brief(error)


@contextlib.contextmanager
def _closed_at_error(result: IterationResult) -> Iterator[None]:
    """End the loop's run in MLflow where an error ends the command; the next one opens it again."""
    try:
        yield
    except RLHFError:
        with contextlib.suppress(Exception):  # the error says more than an MLflow without answer
            close(result.iteration)
        raise


def _announcement(iteration: Iteration, done: int) -> str:
    request, wanted = iteration.request, iteration.rounds_wanted
    text = (
        f"{iteration.name}: {wanted} rounds of {request.pairs} pairs from"
        f" {', '.join(request.sources)} (--pick {request.pick}), labelled by {request.by}"
    )
    return text + (f"; {done} of rounds 0 to {wanted} done earlier" if done else "")


def _with_next_round(
    workspace: Workspace, plan: IterationPlan, iteration: Iteration, say: Callable[[str], None]
) -> Iteration:
    """Return the iteration with one more round, which was made or found made."""
    number, labels = len(iteration.rounds), None
    if number:
        latest = _latest(workspace, plan, iteration)
        say(f"round {number}: pairs by the champion, and their labels")
        labels = labels_of(workspace, iteration, plan.loaded, latest)
        say(_labels_text(number, labels))
    settings = _settings(workspace, plan, iteration, number, labels)
    record = _record(workspace, plan, iteration, settings)
    champion = champion_digest(workspace, plan.loaded)
    ended = round_of(record, number, labels, champion)
    say(f"round {number}: {ended.outcome}. {ended.reason}")
    return iteration.model_copy(update={"rounds": [*iteration.rounds, ended]})


def _labels_text(number: int, labels: RoundLabels) -> str:
    by = f"models of {labels.model_run}" if labels.model_run else "the champion"
    return (
        f"round {number}: {labels.comparisons} comparisons from {labels.pairs} pairs by {by},"
        f" {labels.votes} votes by {labels.by}: {labels.file}"
    )


def _latest(workspace: Workspace, plan: IterationPlan, iteration: Iteration) -> Record:
    """Return the pipeline run of the latest round.

    Raises BadInput where its record, or what the next round reads of it, is gone.
    """
    ended = iteration.rounds[-1]
    found = find_records(workspace, ended.record_id)
    if not found:
        raise BadInput(
            f"the run {ended.run} of {iteration.name} is not in {workspace.outbox} any more;"
            f" expected its record. Remove {iteration.folder(workspace)} to begin anew."
        )
    is_labelled = iteration.label_files(workspace, len(iteration.rounds))[-1].exists()
    if not is_labelled and not has_splits(found[0]):
        raise _without_data(workspace, plan, iteration)
    return found[0]


def _without_data(workspace: Workspace, plan: IterationPlan, iteration: Iteration) -> BadInput:
    """Return the error about the latest run whose training data are gone."""
    ended = iteration.rounds[-1]
    settings = _settings(workspace, plan, iteration, ended.number, ended.labels)
    words = [word for setting in settings for word in ("--set", setting)]
    again = shlex.join(["rlhf", "run", plan.recipe, "--until", VALIDATE.name, *words])
    return BadInput(
        f"the training data of {ended.run}, the latest run of {iteration.name}, are not in the"
        " workspace any more (rlhf gc removes what nobody has used for long); expected the output"
        f" of its stage {VALIDATE.name}. Make them again with the same code: {again}\nElse remove"
        f" {iteration.folder(workspace)} to begin anew."
    )


def _settings(
    workspace: Workspace,
    plan: IterationPlan,
    iteration: Iteration,
    number: int,
    labels: RoundLabels | None,
) -> list[str]:
    """Return the settings of a round, which trains on the labels of all rounds up to it."""
    settings = list(plan.settings_of(number))
    if labels is None:
        return settings
    own = [source.model_dump(exclude_unset=True) for source in plan.loaded.data.new_comparisons]
    files = [str(file) for file in iteration.label_files(workspace, number)]
    settings.append(f"data.new_comparisons={toml([*own, *files])}")
    if labels.reward_model and iteration.request.continue_reward:
        settings.append(f"reward.start={toml(str(labels.reward_model))}")
    # its drift is worth no error where the folder was cleared away since the pairs were made
    elif labels.reward_model and labels.reward_model.is_dir() and measures_reward(plan.loaded):
        settings.append(f"reward.before={toml(str(labels.reward_model))}")
    return settings


def toml(value: object) -> str:
    """Return a text, number, list or table as an inline value of TOML."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{toml(key)} = {toml(one)}" for key, one in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(toml, value)) + "]"
    return json.dumps(value, ensure_ascii=False)


def _record(
    workspace: Workspace, plan: IterationPlan, iteration: Iteration, settings: list[str]
) -> Record:
    """Return the record of the round's run that ended: made now, or by a call that was killed.

    Raises BadInput or RLHFError as the run did, and GateRefused for a refusal that is no verdict
    on the policy. A verdict is an end.
    """
    number = len(iteration.rounds)
    record = newest_record(workspace, iteration, number)
    if record is None or not has_outcome(record):
        end = run_point(plan.recipe, settings, PROMOTE, iteration.membership(number))
        record = newest_record(workspace, iteration, number)
        is_known = end.exit_code in (0, REFUSED, BAD_INPUT)
        if not is_known or record is None or not has_outcome(record):
            kind = {BAD_INPUT: BadInput, REFUSED: GateRefused}.get(end.exit_code, RLHFError)
            error = end.error or "its run has not read the labels that are there."
            text = f"round {number}: {error} The same command goes on from here."
            raise kind(text + _about_labels(workspace, iteration, end.exit_code))
    return record


def _about_labels(workspace: Workspace, iteration: Iteration, exit_code: int) -> str:
    """Return how to go on where the labels of a round may be what its run cannot read."""
    number = len(iteration.rounds)
    if exit_code != BAD_INPUT or not number:
        return ""
    file = iteration.label_files(workspace, number)[-1]
    return (
        f" It takes the round's labels as they are: where they are at fault, correct {file}, or"
        f" remove {file.parent} to have the round labelled anew."
    )

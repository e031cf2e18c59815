"""The validate stage: check and clean the user's files, and write splits and a report."""

import json
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from itertools import chain
from pathlib import Path

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from rlhf_core.benchmarks.names import input_name
from rlhf_core.config.stage_configs import ValidateStageConfig
from rlhf_core.data.chat_template import ensure_chat_template
from rlhf_core.data.checks import failure_message
from rlhf_core.data.columns import FORMATS
from rlhf_core.data.read import read_source
from rlhf_core.data.report import make_report, validation_metrics, write_report
from rlhf_core.data.rows.split_rows import SplitRows, first_of_each_prompt
from rlhf_core.data.rules import apply_row_rules, assign_splits, records_of
from rlhf_core.data.splits import SHORT, SPLITS, TRAIN_PROMPTS, save_lines, save_split
from rlhf_core.data.splitting.leaks import note_near_duplicates, quarantine_leaks
from rlhf_core.data.splitting.new_labels import quarantine_heldout_with_new, quarantine_relabelled
from rlhf_core.data.table import Table, build_table
from rlhf_core.errors import BadInput
from rlhf_core.modeling.end_of_reply import settle_end_of_turn
from rlhf_core.modeling.trainable import require_language_model, require_weights
from rlhf_core.modeling.vocabulary import require_embeddings
from rlhf_core.preflight import require
from rlhf_core.rundir import Output, RunDir, StageSpec, write_atomically
from rlhf_core.sampling.stops import stop_ids_of
from rlhf_core.stage_catalogue import NEW_TRAIN


def run(spec: StageSpec[ValidateStageConfig], run: RunDir) -> Output:
    """Check every source and write its splits.

    Raises BadInput if a source is unreadable, a rule of severity 'error' fails, or the data or the
    model lacks something that a later stage needs.
    """
    data = spec.config.data
    model = spec.inputs["model"].path
    require_language_model(model)
    require_weights(model)
    tokenizer = _tokenizer(model)
    ending = settle_end_of_turn(tokenizer, stop_ids_of(model), data.rules.end_of_turn)
    require_embeddings(tokenizer, model)
    with _work_folder(run.path) as folder:
        return _validated(spec, run, tokenizer, ending, folder)


@contextmanager
def _work_folder(path: Path) -> Iterator[Path]:
    """Give a folder for the rows that are being checked, and remove it in the end."""
    folder = path / "rows"
    shutil.rmtree(folder, ignore_errors=True)  # that of an earlier try
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _validated(
    spec: StageSpec[ValidateStageConfig],
    run: RunDir,
    tokenizer: PreTrainedTokenizerBase,
    ending: list[dict],
    folder: Path,
) -> Output:
    data, model = spec.config.data, spec.inputs["model"].path
    tables = {name: _checked_table(name, spec, tokenizer, folder) for name in data.sources}
    tables = quarantine_leaks(assign_splits(tables, data), data.checked_rules)
    tables = quarantine_relabelled(quarantine_heldout_with_new(tables, data))
    tables, near = note_near_duplicates(tables, data)
    splits = make_splits(tables, data.kinds)
    assert_nothing_vanished(tables, splits)
    _write_rows(run.path, tables, splits)
    report = make_report(run.path, tables, splits, data.checked_rules)
    _write_train_prompts(run.path, splits, report)
    report["rules"] += ending
    report["near_duplicates"] = [asdict(example) for example in near]
    write_report(run.path, report)
    metrics = validation_metrics(tables, splits, report)
    run.log(1, 1, metrics)
    if failed := [
        item for item in report["rules"] if item["severity"] == "error" and not item["passed"]
    ]:
        raise BadInput(failure_message(failed, str(run.path / "report.json")), code="RLHF-D001")
    task_files = {name: spec.inputs[input_name(name)].path for name in spec.config.needs.benchmarks}
    require(spec.config.needs, splits, model, task_files)
    return Output(
        outputs={split: f"splits/{split}.jsonl" for split in splits},
        metrics=metrics,
        counts=_counts(splits),
        files={
            "report": "report.json",
            "report_table": "report.table.json",
            "quarantine": "quarantine.jsonl",
            "train_prompts": TRAIN_PROMPTS,
            "data_docs": "data_docs",
        },
    )


def _tokenizer(path: Path) -> PreTrainedTokenizerBase:
    try:
        tokenizer = AutoTokenizer.from_pretrained(path)
    except Exception as error:  # transformers raises a dozen kinds on a folder without a tokenizer
        raise BadInput(
            f"no tokenizer loads from {path} ({type(error).__name__}: {error}); expected a model"
            " folder with tokenizer.json or its like. Save the tokenizer into it with"
            " tokenizer.save_pretrained()."
        ) from error
    ensure_chat_template(tokenizer)
    return tokenizer


def _checked_table(
    name: str,
    spec: StageSpec[ValidateStageConfig],
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
) -> Table:
    data = spec.config.data
    source = data.sources[name]
    path = spec.inputs[name].path if name in spec.inputs else None
    rows = read_source(name, source, path, folder)
    kind = next(kind for kind in FORMATS if name.removeprefix("new_").startswith(kind))
    needed = [column for function in spec.config.needs.functions for column in function.columns]
    table = build_table(
        rows, kind, source.columns, ignored=source.ignore, needed=needed, folder=folder
    )
    return apply_row_rules(table, data, tokenizer)


def _counts(splits: dict[str, SplitRows]) -> dict[str, int]:
    """Return the number of rows behind each mean over a training split."""
    names = {"longer_wins": ("comparisons_train", NEW_TRAIN), "up_share": ("feedback_train",)}
    found = {
        f"data/{name}": sum(len(splits[split]) for split in behind if split in splits)
        for name, behind in names.items()
    }
    return {name: count for name, count in found.items() if count}


def make_splits(
    tables: dict[str, Table], kinds: Sequence[str] = ("demonstrations", "comparisons", "prompts")
) -> dict[str, SplitRows]:
    """Return the records by split. kinds: those of which the recipe has rows.

    Without a file of prompts for a side, the prompts of the comparisons on that side are used, and
    without comparisons those of the feedback.
    """
    kept = [split for split in SPLITS if split.rsplit("_", 1)[0] in kinds]
    splits = {split: records_of(tables, split) for split in kept}
    judged = "comparisons" if "comparisons" in kinds else "feedback"
    if "prompts" not in tables:
        rows = splits[f"{judged}_train"].entries
        splits["prompts_train"] = SplitRows([], first_of_each_prompt(rows))
    if "prompts_heldout" not in tables:
        # split off by hash from a file of prompts, if there is one
        own = splits["prompts_heldout"].entries
        known = {entry.prompt_key for entry in own}
        others = [e for e in splits[f"{judged}_heldout"].entries if e.prompt_key not in known]
        splits["prompts_heldout"] = SplitRows(own, first_of_each_prompt(others))
    return splits


def assert_nothing_vanished(tables: dict[str, Table], splits: dict[str, SplitRows]) -> None:
    """Check that no row is lost.

    For every source: rows read = rows kept + rows quarantined, and every kept row is in its split's
    records, or in reserve.
    """
    for table in tables.values():
        read, kept = len(table.entries), len(table.kept)
        quarantined = sum(entry.rule is not None for entry in table.entries)
        assert read == kept + quarantined, (
            f"{table.name}: read {read}, kept {kept}, quarantined {quarantined}"
        )
        for entry in table.kept:
            assert entry.is_in("reserve") or entry.split in splits, (
                f"{table.name} line {entry.line} is in no split"
            )
    for split, records in splits.items():
        missing = Counter(records_of(tables, split).ids())
        missing.subtract(records.ids())
        assert max(missing.values(), default=0) <= 0, (
            f"{split}: {(+missing).total()} kept rows are missing"
        )


def _write_train_prompts(path: Path, splits: dict[str, SplitRows], report: dict) -> None:
    """Write the short keys of the prompts of each training split, with the split's digest.

    MLflow keeps this file, so that a later run elsewhere can tell what a model was trained on.
    """
    found = {
        split: {
            "digest": report["splits"][split]["digest"],
            "prompts": sorted({entry.prompt_key[:SHORT] for entry in records.entries}),
        }
        for split, records in splits.items()
        if split.endswith("_train")
    }
    write_atomically(path / TRAIN_PROMPTS, json.dumps(found))


def _write_rows(path: Path, tables: dict[str, Table], splits: dict[str, SplitRows]) -> None:
    for split, records in splits.items():
        save_lines(path / "splits" / f"{split}.jsonl", records.lines())
    save_split(
        path / "quarantine.jsonl",
        chain.from_iterable(table.quarantined() for table in tables.values()),
    )

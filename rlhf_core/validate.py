"""The validate stage: check and clean the user's files, and write splits and a report."""

import json
from collections import Counter
from dataclasses import asdict
from pathlib import Path

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from rlhf_core.benchmarks.names import input_name
from rlhf_core.config import Data
from rlhf_core.config.stage_configs import ValidateStageConfig
from rlhf_core.data.chat_template import ensure_chat_template
from rlhf_core.data.checks import failure_message
from rlhf_core.data.columns import FORMATS
from rlhf_core.data.read import read_source
from rlhf_core.data.report import make_report, validation_metrics, write_report
from rlhf_core.data.rules import apply_row_rules, assign_splits, records_of
from rlhf_core.data.splits import (
    SOURCES,
    SPLITS,
    TRAIN_PROMPTS,
    prompt_key,
    prompt_keys,
    save_split,
    unique_prompts,
)
from rlhf_core.data.splitting.leaks import note_near_duplicates, quarantine_leaks
from rlhf_core.data.table import Table, build_table
from rlhf_core.errors import BadInput
from rlhf_core.modeling.end_of_reply import settle_end_of_turn
from rlhf_core.modeling.trainable import require_language_model, require_weights
from rlhf_core.modeling.vocabulary import require_embeddings
from rlhf_core.preflight import require
from rlhf_core.rundir import Output, RunDir, StageSpec, write_atomically
from rlhf_core.sampling.stops import stop_ids_of


def run(spec: StageSpec[ValidateStageConfig], run: RunDir) -> Output:
    """Check every source and write the six splits.

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
    tables = {
        name: _checked_table(name, data, spec, tokenizer) for name in SOURCES if getattr(data, name)
    }
    tables = quarantine_leaks(assign_splits(tables, data), data.checked_rules)
    tables, near = note_near_duplicates(tables, data)
    splits = make_splits(tables)
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
        raise BadInput(failure_message(failed, str(run.path / "report.json")))
    task_files = {name: spec.inputs[input_name(name)].path for name in spec.config.needs.benchmarks}
    require(spec.config.needs, splits, model, task_files)
    return Output(
        outputs={split: f"splits/{split}.jsonl" for split in SPLITS},
        metrics=metrics,
        counts={"data/longer_wins": len(splits["comparisons_train"])},
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
    name: str, data: Data, spec: StageSpec, tokenizer: PreTrainedTokenizerBase
) -> Table:
    source = getattr(data, name)
    rows = read_source(name, source, spec.inputs[name].path if name in spec.inputs else None)
    kind = next(kind for kind in FORMATS if name.startswith(kind))
    needed = [column for function in spec.config.needs.functions for column in function.columns]
    table = build_table(rows, kind, source.columns, ignored=source.ignore, needed=needed)
    return apply_row_rules(table, data, tokenizer)


def make_splits(tables: dict[str, Table]) -> dict[str, list[dict]]:
    """Return the records by split.

    Without a file of prompts for a side, the prompts of the comparisons on that side are used.
    """
    splits = {split: records_of(tables, split) for split in SPLITS}
    if "prompts" not in tables:
        splits["prompts_train"] = unique_prompts(splits["comparisons_train"])
    if "prompts_heldout" not in tables:
        own = splits["prompts_heldout"]  # split off by hash from a file of prompts, if there is one
        known = {prompt_key(record["prompt"]) for record in own}
        others = [r for r in splits["comparisons_heldout"] if prompt_key(r["prompt"]) not in known]
        splits["prompts_heldout"] = [*own, *unique_prompts(others)]
    return splits


def assert_nothing_vanished(tables: dict[str, Table], splits: dict[str, list[dict]]) -> None:
    """Check that no row is lost.

    For every source: rows read = rows kept + rows quarantined, and every kept row is in its split's
    records, or in reserve.
    """
    for table in tables.values():
        read, kept, quarantined = len(table.entries), len(table.kept), len(table.quarantined())
        assert read == kept + quarantined, (
            f"{table.name}: read {read}, kept {kept}, quarantined {quarantined}"
        )
        for entry in table.kept:
            assert entry.is_in("reserve") or entry.split in splits, (
                f"{table.name} line {entry.line} is in no split"
            )
    for split, records in splits.items():
        missing = Counter(record["id"] for record in records_of(tables, split))
        missing.subtract(record["id"] for record in records)
        assert max(missing.values(), default=0) <= 0, (
            f"{split}: {(+missing).total()} kept rows are missing"
        )


def _write_train_prompts(path: Path, splits: dict[str, list[dict]], report: dict) -> None:
    """Write the short keys of the prompts of each training split, with the split's digest.

    MLflow keeps this file, so that a later run elsewhere can tell what a model was trained on.
    """
    found = {
        split: {
            "digest": report["splits"][split]["digest"],
            "prompts": sorted(prompt_keys(records)),
        }
        for split, records in splits.items()
        if split.endswith("_train")
    }
    write_atomically(path / TRAIN_PROMPTS, json.dumps(found))


def _write_rows(path: Path, tables: dict[str, Table], splits: dict[str, list[dict]]) -> None:
    for split, records in splits.items():
        save_split(path / "splits" / f"{split}.jsonl", records)
    save_split(
        path / "quarantine.jsonl", [row for table in tables.values() for row in table.quarantined()]
    )

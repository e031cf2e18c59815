"""The whole stage on real files, with Great Expectations: what it writes, counts, refuses."""

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from rlhf_core.__main__ import main, run_stage
from rlhf_core.config import Data, Source
from rlhf_core.data.expectations import Expectation, evaluate
from rlhf_core.data.splits import SPLITS, load_split, short_key
from rlhf_core.errors import BadInput
from rlhf_core.metrics import METRICS
from rlhf_core.rundir import Artifact, RunDir, StageSpec
from rlhf_core.stage_catalogue import NEW_PAIRS

WORDS = [f"w{i}" for i in range(200)]
SIDES = ("train", "heldout")
OLD = [name for name in SPLITS if not name.startswith("new_")]
# of a recipe without feedback
DEFAULT = [name for name in OLD if not name.startswith("feedback_")]
SMALL = {"min_demonstrations": 5, "min_comparisons": 5, "min_heldout": 1}


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    core = Tokenizer(
        models.WordLevel(
            {w: i for i, w in enumerate(["<unk>", "<eos>", *WORDS])}, unk_token="<unk>"
        )
    )
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    folder = tmp_path_factory.mktemp("model")
    PreTrainedTokenizerFast(
        tokenizer_object=core, unk_token="<unk>", eos_token="<eos>"
    ).save_pretrained(folder)
    shape = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 1, "num_key_value_heads": 1}
    LlamaForCausalLM(LlamaConfig(vocab_size=len(WORDS) + 2, **shape, **heads)).save_pretrained(
        folder
    )
    return folder


def demonstrations(n=40):
    return [{"prompt": WORDS[i], "response": f"{WORDS[i]} w1 w2"} for i in range(n)]


def comparisons(n=40):
    """Pairs whose longer answer is chosen every second time, of which half have one dissenter."""
    texts = ("w1 w2", "w3 w4 w5")
    return [
        {
            "prompt": WORDS[i],
            "chosen": texts[i % 2],
            "rejected": texts[1 - i % 2],
            "votes_for": 3 + i % 2,
            "votes_against": 1 - i % 2,
            "n": i,
        }
        for i in range(n)
    ]


def write(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def make_spec(folder: Path, model: Path, sources: dict, **data) -> StageSpec:
    rows = {"demonstrations": demonstrations(), "comparisons": comparisons()} | sources
    paths = {name: write(folder / f"{name}.jsonl", content) for name, content in rows.items()}
    config = Data(
        **{n: str(p) for n, p in paths.items()}
        | {"heldout_fraction": 0.3, **data, "rules": SMALL | data.get("rules", {})}
    )
    inputs = {"model": model, **paths}
    return StageSpec(
        stage="validate",
        seed=1,
        config={"data": config.model_dump(mode="json")},
        code="test",
        inputs={name: Artifact.of(path) for name, path in inputs.items()},
    )


def refused(spec: StageSpec, folder: Path) -> tuple[str, dict]:
    """The message of the refusal, and the report that it left."""
    with pytest.raises(BadInput) as caught:
        run_stage(spec, RunDir(folder / "run"))
    assert not (folder / "run" / "result.json").exists()
    for name in ("quarantine.jsonl", "report.table.json", "data_docs/index.html"):
        assert (folder / "run" / name).exists()
    return str(caught.value), json.loads((folder / "run" / "report.json").read_text())


def failed_rules(report: dict) -> set[tuple[str, str]]:
    return {(rule["rule"], rule["source"]) for rule in report["rules"] if not rule["passed"]}


# ---- a run that passes, with bad rows in it


@pytest.fixture(scope="module")
def dirty(model, tmp_path_factory):
    """Result and folder of a run over files with one bad row of each kind."""
    folder = tmp_path_factory.mktemp("dirty")
    bad_demonstrations = [
        {"prompt": None, "response": "w1"},
        {"prompt": "w1", "response": ""},
        {"prompt": 7, "response": "w1"},
        demonstrations()[0],
        {"prompt": "w150", "response": "w1 " * 300},
    ]
    pair = {"prompt": "w160", "chosen": "w1", "rejected": "w2"}
    bad_comparisons = [
        {"prompt": "w151", "chosen": "w1", "rejected": "w1"},
        pair,
        {**pair, "chosen": "w2", "rejected": "w1"},
        comparisons()[0],
        {"prompt": "w152 " * 300, "chosen": "w1", "rejected": "w2"},
        {"prompt": "w153", "chosen": "w1", "rejected": "w2", "votes_for": 1.5, "votes_against": 1},
    ]
    sources = {
        "demonstrations": demonstrations() + bad_demonstrations,
        "comparisons": comparisons() + bad_comparisons,
        "prompts": [{"prompt": word} for word in [*WORDS[60:90], "w60"]],
    }
    spec = make_spec(folder, model, sources)
    return run_stage(spec, RunDir(folder / "run")), folder / "run"


def test_every_row_is_kept_or_quarantined_with_its_place_and_reason(dirty):
    result, folder = dirty
    rows = load_split(folder / "quarantine.jsonl")
    assert [(r["source"], r["line"], r["rule"]) for r in rows] == [
        ("demonstrations", 41, "empty_text"),
        ("demonstrations", 42, "empty_text"),
        ("demonstrations", 43, "schema"),
        ("demonstrations", 44, "duplicates"),
        ("demonstrations", 45, "length"),
        ("comparisons", 41, "chosen_equals_rejected"),
        ("comparisons", 42, "contradictions"),
        ("comparisons", 43, "contradictions"),
        ("comparisons", 44, "duplicates"),
        ("comparisons", 45, "length"),
        ("comparisons", 46, "schema"),
        ("prompts", 31, "duplicates"),
    ]
    assert rows[2]["row"] == {"prompt": 7, "response": "w1"} and rows[2]["file"].endswith(
        "demonstrations.jsonl"
    )
    assert result.metrics["data/rows"] == 45 + 46 + 31
    assert result.metrics["data/rows_kept"] == result.metrics["data/rows"] - len(rows)


def test_a_missing_column_is_called_so_and_no_row_gets_columns_that_it_has_not(model, tmp_path):
    rows = [*comparisons(), {"prompt": "w150", "chosen": "w1"}, {"chosen": "w2", "rejected": None}]
    rows.append({"prompt": "w151", "chosen": "w3", "rejected": None})
    rows.append({"prompt": {"text": "w152"}, "chosen": "w4", "rejected": "w5"})
    spec = make_spec(tmp_path, model, {"comparisons": rows})
    run_stage(spec, RunDir(tmp_path / "run"))
    found = load_split(tmp_path / "run" / "quarantine.jsonl")
    assert [(row["line"], row["rule"], row["reason"], row["row"]) for row in found] == [
        (41, "empty_text", "rejected is missing: the row has no such column", rows[40]),
        (42, "empty_text", "prompt is missing: the row has no such column", rows[41]),
        (43, "empty_text", "rejected is null", rows[42]),
        (
            44,
            "schema",
            "prompt is the object {'text': 'w152'}; expected text, or a message with role and"
            " content",
            rows[43],
        ),
    ]
    assert not (tmp_path / "run" / "rows").exists()  # what was checked is in the splits


def test_the_splits_hold_exactly_the_kept_rows_in_canonical_form(dirty):
    result, _ = dirty
    splits = {name: load_split(result_path(dirty, name)) for name in DEFAULT}
    for kind in ("demonstrations", "comparisons"):
        kept = [*splits[f"{kind}_train"], *splits[f"{kind}_heldout"]]
        assert {r["prompt"][0]["content"] for r in kept} == set(WORDS[:40]) and len(kept) == 40
        assert all(
            result.metrics[f"data/{kind}_{side}"] == len(splits[f"{kind}_{side}"])
            for side in ("train", "heldout")
        )
    first = splits["comparisons_train"][0]
    assert list(first) == [
        "chosen",
        "id",
        "meta",
        "prompt",
        "rejected",
        "votes_against",
        "votes_for",
    ]
    assert (first["votes_for"], first["votes_against"], first["meta"].keys()) == (4, 0, {"n"})
    heldout = {
        r["prompt"][0]["content"]
        for name in DEFAULT
        if name.endswith("heldout")
        for r in splits[name]
    }
    train = {
        r["prompt"][0]["content"]
        for name in DEFAULT
        if name.endswith("train")
        for r in splits[name]
    }
    assert not heldout & train and heldout | train == set(WORDS[:40]) | set(WORDS[60:90])


def result_path(dirty, name: str) -> Path:
    result, folder = dirty
    return folder / result.outputs[name].path


def test_the_report_names_each_rule_with_found_and_expected_and_the_digest_of_each_split(dirty):
    result, folder = dirty
    report = json.loads((folder / "report.json").read_text())
    rules = {(rule["rule"], rule["source"]): rule for rule in report["rules"]}
    duplicate = rules["duplicates", "comparisons"]
    assert duplicate.keys() == {
        "rule",
        "source",
        "severity",
        "passed",
        "found",
        "expected",
        "detail",
    }
    assert (
        duplicate["found"] == pytest.approx(1 / 46)
        and not duplicate["passed"]
        and duplicate["severity"] == "warning"
    )
    assert "line 44" in duplicate["detail"] and duplicate["expected"] == "no row"
    assert report["rows"]["demonstrations"] == {
        "file": report["rows"]["demonstrations"]["file"],
        "read": 45,
        "kept": 40,
        "quarantined": 5,
        "by_rule": {"empty_text": 2, "schema": 1, "duplicates": 1, "length": 1},
    }
    assert {name: item["digest"] for name, item in report["splits"].items()} == {
        n: a.digest for n, a in result.outputs.items()
    }
    assert report["great_expectations"]["suites"]["comparisons"]["evaluated_expectations"] > 5
    assert rules["rows_read", "comparisons"]["expected"] == "at least 1 row"
    assert rules["min_rows", "split_comparisons_train"]["expected"] == "at least 5 rows"
    table = json.loads((folder / "report.table.json").read_text())
    assert len(table["data"]) == len(report["rules"]) and all(
        len(row) == len(table["columns"]) for row in table["data"]
    )


def test_metrics_are_declared_and_the_shares_are_those_of_the_files(dirty):
    result, _ = dirty
    of_feedback = {
        f"data/{name}" for name in ("up_share", "longer_up", "feedback_train", "feedback_heldout")
    }
    of_new = {
        "data/rows_relabelled",
        "data/rows_heldout_with_new",
        *map("data/{}".format, NEW_PAIRS),
    }
    declared = {name for name in METRICS if name.startswith("data/")} - of_new
    assert set(result.metrics) == declared - of_feedback and of_feedback < declared
    assert result.metrics["data/share_dropped"] == pytest.approx(6 / 46)
    assert result.metrics["data/annotator_agreement"] == pytest.approx(0.875, abs=0.05)
    # half of the pairs are 4:0, half 3:1, of which half of the votes' pairs agree
    assert result.metrics["data/annotator_alpha"] == pytest.approx(0.5, abs=0.15)
    assert result.metrics["data/annotator_alpha_lower"] > 0.2
    assert 0.3 < result.metrics["data/longer_wins"] < 0.7
    assert (result.metrics["data/errors"], result.metrics["data/warnings"]) == (0, 7)


def test_data_docs_need_no_network_and_link_every_suite(dirty):
    result, folder = dirty
    docs = folder / result.files["data_docs"]
    for page in docs.rglob("*.html"):
        text = page.read_text()
        assert (
            "<script src=" not in text
            and 'href="https://cdn' not in text
            and '<img src="http' not in text
        )
    index = (docs / "index.html").read_text()
    assert "<script" not in index and "http" not in index
    for suite in ("demonstrations", "split_prompts_heldout"):
        assert f'href="validations/{suite}/' in index


def test_a_reserve_is_in_no_split_and_its_rows_are_counted(model, tmp_path):
    spec = make_spec(tmp_path, model, {}, heldout_folds=2)
    result = run_stage(spec, RunDir(tmp_path / "run"))
    splits = {name: load_split(tmp_path / "run" / result.outputs[name].path) for name in DEFAULT}
    there = {row["prompt"][0]["content"] for rows in splits.values() for row in rows}
    reserved = set(WORDS[:40]) - there
    assert len(reserved) > 5 and result.metrics["data/rows_reserved"] == 2 * len(reserved)
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert report["rows"]["comparisons"]["reserved"] == len(reserved)
    listed = (tmp_path / "run" / "train_prompts.json").read_text()
    assert not any(f'"{short_key(user_says(word))}"' in listed for word in reserved)


def feedback(n: int = 40) -> list[dict]:
    """Replies of which every third has thumbs up; those are the longer ones."""
    return [
        {"prompt": WORDS[i], "completion": "w1 w2" if i % 3 else "w3 w4 w5", "label": i % 3 == 0}
        for i in range(n)
    ]


def test_feedback_is_checked_split_and_counted_as_comparisons_are(model, tmp_path):
    bad = [
        {"prompt": "w150", "completion": "w1", "label": "up"},
        {"prompt": "w150", "completion": "w1 ", "label": 0},
        {"prompt": "w151", "completion": "w1", "label": 0.5},
        {"prompt": "w152", "completion": "w1", "label": None},
        feedback()[0],
    ]
    rules = {"min_feedback": 5, "max_share_dropped": 0.3}
    spec = make_spec(tmp_path, model, {"feedback": feedback() + bad}, rules=rules)
    result = run_stage(spec, RunDir(tmp_path / "run"))
    splits = {name: load_split(tmp_path / "run" / result.outputs[name].path) for name in OLD}
    rows = [*splits["feedback_train"], *splits["feedback_heldout"]]
    assert len(rows) == 40 and sum(row["label"] for row in rows) == 14
    kept = {side: {r["prompt"][0]["content"] for r in splits[f"feedback_{side}"]} for side in SIDES}
    pairs = {
        side: {r["prompt"][0]["content"] for r in splits[f"comparisons_{side}"]} for side in SIDES
    }
    assert kept == pairs  # the same prompts are held out
    quarantined = load_split(tmp_path / "run" / "quarantine.jsonl")
    assert [(r["line"], r["rule"]) for r in quarantined if r["source"] == "feedback"] == [
        (41, "contradictions"),
        (42, "contradictions"),
        (43, "schema"),
        (44, "schema"),
        (45, "duplicates"),
    ]
    assert "label is 0.5; expected true or false, 1 or 0" in quarantined[2]["reason"]
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert ("longer_wins", "split_feedback_train") in failed_rules(report)
    assert result.metrics["data/longer_up"] == 1 and 0.2 < result.metrics["data/up_share"] < 0.5
    assert "feedback" in report["great_expectations"]["suites"]


def test_feedback_alone_gives_prompts_and_the_balance_of_its_labels_is_a_rule(model, tmp_path):
    rows = [{**row, "label": i == 0} for i, row in enumerate(feedback())]
    rules = {"min_feedback": 5, "label_share": "error", "min_label_share": 0.2}
    spec = make_spec(tmp_path, model, {"comparisons": [], "feedback": rows}, rules=rules)
    values = spec.config["data"] | {"comparisons": None}
    inputs = {name: item for name, item in spec.inputs.items() if name != "comparisons"}
    spec = spec.model_copy(update={"config": {"data": values}, "inputs": inputs})
    text, report = refused(spec, tmp_path)
    assert "split_feedback_train: label_share: found" in text and "from 0.2 to 0.8" in text
    assert set(report["splits"]) == {n for n in OLD if not n.startswith("comparisons")}
    assert report["splits"]["prompts_train"]["rows"] == report["splits"]["feedback_train"]["rows"]


def test_later_labels_have_splits_of_their_own_and_take_the_place_of_older_ones(model, tmp_path):
    exchanged = {"chosen": "rejected", "rejected": "chosen"}
    again = [{exchanged.get(k, k): v for k, v in row.items()} for row in comparisons()]
    first = write(tmp_path / "week-1.jsonl", again[:30])
    second = write(tmp_path / "week-2.jsonl", comparisons()[:20])  # a third label of these pairs
    apart = [{**row, "prompt": f"w{190 + i}"} for i, row in enumerate(comparisons()[:5])]
    sources = {"comparisons_heldout": apart}
    sources["demonstrations_heldout"] = [{"prompt": "w198", "response": "w1"}]
    sources["prompts_heldout"] = [{"prompt": "w197"}]
    spec = make_spec(tmp_path, model, sources, new_comparisons=[str(first), str(second)])
    files = {"new_comparisons_1": Artifact.of(first), "new_comparisons_2": Artifact.of(second)}
    spec = spec.model_copy(update={"inputs": spec.inputs | files})
    result = run_stage(spec, RunDir(tmp_path / "run"))

    def prompts(split: str) -> list[str]:
        rows = load_split(tmp_path / "run" / result.outputs[split].path)
        return [row["prompt"][0]["content"] for row in rows]

    old, new, heldout = map(prompts, ("comparisons_train", *NEW_PAIRS))
    assert set(new) | set(heldout) == set(WORDS[:30]) and not set(new) & set(heldout)
    assert heldout and not set(old) & set(heldout) and set(old) >= set(WORDS[30:40])
    assert not set(old) & set(new)
    for split in (new, heldout):  # each pair once, with its last label
        assert len(split) == len(set(split))
    assert set(prompts("demonstrations_train")) >= set(heldout)
    metrics = result.metrics
    assert metrics["data/new_comparisons_train"] == len(new)
    rules = [row["rule"] for row in load_split(tmp_path / "run" / "quarantine.jsonl")]
    assert metrics["data/rows_relabelled"] == rules.count("relabelled")
    # each prompt that is held out has one row in the old file
    assert metrics["data/rows_heldout_with_new"] == len(heldout)
    assert metrics["data/share_dropped"] == 0  # rows that give way are not lost
    assert set(metrics) <= set(METRICS)
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert report["rows"]["comparisons"]["by_rule"]["relabelled"] == len(new)
    assert "new_comparisons_2" in report["great_expectations"]["suites"]


def user_says(text: str) -> list[dict]:
    return [{"role": "user", "content": text}]


def test_the_same_input_gives_the_same_bytes(model, tmp_path):
    digests = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        spec = make_spec(tmp_path / name, model, {})
        digests.append(
            {
                k: v.digest
                for k, v in run_stage(spec, RunDir(tmp_path / name / "run")).outputs.items()
            }
        )
    assert digests[0] == digests[1]


# ---- runs that are refused


def test_a_refusal_names_each_failed_rule_and_ends_the_process_with_2(model, tmp_path):
    empty = [{"prompt": f"x{i}", "response": " "} for i in range(20)]
    spec = make_spec(tmp_path, model, {"demonstrations": demonstrations() + empty})
    (tmp_path / "spec.json").write_text(spec.model_dump_json())
    assert main(["validate", str(tmp_path / "spec.json"), str(tmp_path / "run")]) == 2
    message = json.loads((tmp_path / "run" / "failure.json").read_text())["message"]
    assert "2 data rule(s) failed" in message
    assert "demonstrations: empty_text: found 0.3333 (20 of 60 rows, first on line 41" in message
    assert (
        "expected at most a share of 0.2" in message and "data.rules.max_share_dropped" in message
    )


def test_a_column_of_nulls_is_an_error_even_when_every_other_rule_is_off(model, tmp_path):
    rows = [{**row, "rejected": None} for row in comparisons()]
    names = (
        "share_dropped",
        "empty_text",
        "leakage",
        "duplicates",
        "contradictions",
        "chosen_equals_rejected",
        "length",
    )
    spec = make_spec(tmp_path, model, {"comparisons": rows}, rules=dict.fromkeys(names, "off"))
    message, report = refused(spec, tmp_path)
    assert ("null_column", "comparisons") in failed_rules(report)
    assert "rejected is null or blank in a share of 1 of the rows" in message
    assert ("min_rows", "split_comparisons_train") in failed_rules(report)


def test_a_prompt_in_training_and_held_out_files_is_refused_or_set_aside(model, tmp_path):
    sources = {
        "comparisons_heldout": comparisons()[30:],
        "comparisons": comparisons(32),
        "demonstrations": demonstrations(30),
        "demonstrations_heldout": [{"prompt": WORDS[i], "response": "w3"} for i in range(100, 110)],
    }
    message, report = refused(make_spec(tmp_path, model, sources), tmp_path)
    assert failed_rules(report) == {("leakage", "comparisons")}
    assert (
        "2 of 32 rows, first on line 31, 32; e.g. the prompt is held out in comparisons_heldout"
        " line 1" in message
    )
    spec = make_spec(tmp_path, model, sources, rules={"leakage": "warning"})
    assert run_stage(spec, RunDir(tmp_path / "again")).metrics["data/comparisons_train"] == 30


def test_too_few_rows_of_any_split_are_refused(model, tmp_path):
    spec = make_spec(
        tmp_path,
        model,
        {},
        rules={"min_demonstrations": 41, "min_comparisons": 41, "min_heldout": 30},
    )
    _, report = refused(spec, tmp_path)
    names = (
        "demonstrations_train",
        "demonstrations_heldout",
        "comparisons_train",
        "comparisons_heldout",
        "prompts_heldout",
    )
    assert failed_rules(report) == {("min_rows", f"split_{name}") for name in names}


def test_what_a_later_stage_would_miss_is_refused_while_nothing_has_been_trained(model, tmp_path):
    spec = make_spec(tmp_path, model, {})
    asked = spec.model_copy(update={"config": spec.config | {"needs": {"strength": True}}})
    message, report = refused(asked, tmp_path)
    assert "reward.margin_scale is set, but" in message and not failed_rules(report)


def noted(spec: StageSpec, folder: Path) -> dict[str, dict]:
    """Return the report's failed rules about comparisons, by rule, of a run that passes."""
    run_stage(spec, RunDir(folder / "run"))
    report = json.loads((folder / "run" / "report.json").read_text())
    rules = [r for r in report["rules"] if r["source"] == "comparisons" and not r["passed"]]
    return {rule["rule"]: rule for rule in rules}


def test_texts_of_special_tokens_and_unread_columns_are_counted_and_kept(model, tmp_path):
    rows = comparisons()
    rows[3] |= {"prompt": f"{WORDS[3]} <eos> w1", "chosen": "w1 w2 <eos>"}
    rows[4]["context"] = "A sea."
    found = noted(make_spec(tmp_path, model, {"comparisons": rows}), tmp_path)
    assert set(found) == {"special_tokens", "unused_columns"}
    assert found["special_tokens"]["detail"] == (
        "1 of 40 rows, first on line 4; e.g. the text '<eos>' is a special token of the tokenizer"
    )
    assert found["unused_columns"]["detail"] == (
        "1 of 40 rows, first on line 5; e.g. no stage reads 'context'"
    )
    assert found["special_tokens"]["severity"] == found["unused_columns"]["severity"] == "warning"
    assert not load_split(tmp_path / "run" / "quarantine.jsonl")


def test_the_report_says_what_ends_a_reply(model, tmp_path):
    """A template that ends turns with another token than eos_token is reconciled, and named."""
    folder = shutil.copytree(model, tmp_path / "model")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m.role + ' ' + m.content + ' ' }}"
        "{% if m.role == 'assistant' %}{{ unk_token + '\\n' }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'assistant ' }}{% endif %}"
    )
    tokenizer.save_pretrained(folder)
    run_stage(make_spec(tmp_path, folder, {"comparisons": comparisons()}), RunDir(tmp_path / "run"))
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    (entry,) = [rule for rule in report["rules"] if rule["rule"] == "end_of_turn"]
    assert entry["passed"] and entry["source"] == "model"
    assert entry["detail"].startswith("the chat template ends an answer with '<unk>', which is")
    assert "eos_token is '<eos>', generation_config stops at 'w0'" in entry["detail"]


def test_scores_against_the_label_are_quarantined_and_equal_ones_kept(model, tmp_path):
    rows = [row | {"score_chosen": 7.0, "score_rejected": 3.0} for row in comparisons()]
    rows[5] |= {"score_chosen": 3.0, "score_rejected": 7.0}
    rows[6] |= {"margin": -2.0}
    rows[7] |= {"score_chosen": 3.0}
    found = noted(make_spec(tmp_path, model, {"comparisons": rows}), tmp_path)
    assert set(found) == {"score_contradictions", "equal_scores"}
    assert found["score_contradictions"]["detail"] == (
        "2 of 40 rows, first on line 6, 7; e.g. score_chosen 3 is less than score_rejected 7"
    )
    assert found["equal_scores"]["found"] == pytest.approx(1 / 40)
    quarantine = load_split(tmp_path / "run" / "quarantine.jsonl")
    assert [(row["line"], row["rule"]) for row in quarantine] == [
        (6, "score_contradictions"),
        (7, "score_contradictions"),
    ]


def test_each_of_these_rules_can_stop_the_run_or_be_off(model, tmp_path):
    rows = [row | {"score_chosen": 3.0, "score_rejected": 3.0} for row in comparisons()]
    rows[3] |= {"chosen": "w1 w2 <eos>", "context": "A sea.", "score_chosen": 1.0}
    names = ("special_tokens", "unused_columns", "equal_scores", "score_contradictions")
    sources = {"comparisons": rows}
    spec = make_spec(tmp_path, model, sources, rules=dict.fromkeys(names, "error"))
    _, report = refused(spec, tmp_path)
    assert {rule for rule, _ in failed_rules(report)} == set(names)
    off = make_spec(tmp_path, model, sources, rules=dict.fromkeys(names, "off"))
    assert not noted(off, tmp_path / "off")


def test_an_ignored_column_is_in_no_record(model, tmp_path):
    rows = [row | {"tools": [{"name": "w"}]} for row in comparisons()]
    spec = make_spec(tmp_path, model, {"comparisons": rows})
    message, _ = refused(spec, tmp_path)
    assert "comparisons: schema: found 1 (40 of 40 rows" in message
    assert "the model's chat template ignores tools" in message
    path = str(tmp_path / "comparisons.jsonl")
    ignoring = make_spec(
        tmp_path, model, {"comparisons": rows}, comparisons=Source(path=path, ignore=("tools",))
    )
    result = run_stage(ignoring, RunDir(tmp_path / "again"))
    assert result.metrics["data/share_dropped"] == 0
    assert all(
        "tools" not in row["meta"]
        for row in load_split(tmp_path / "again" / "splits" / "comparisons_train.jsonl")
    )


def test_every_severity_can_be_raised_to_an_error(model, tmp_path):
    rows = [
        {
            "prompt": WORDS[i],
            "chosen": "w1 w2",
            "rejected": "w1",
            "votes_for": 1,
            "votes_against": 1,
        }
        for i in range(40)
    ]
    same, pair = (
        {"prompt": "w50", "chosen": "w1", "rejected": "w1"},
        {"prompt": "w51", "chosen": "w1", "rejected": "w2"},
    )
    rows += [
        same,
        pair,
        {**pair, "chosen": "w2", "rejected": "w1"},
        rows[0],
        {**pair, "chosen": "w1 " * 300},
    ]
    names = (
        "longer_wins",
        "annotator_alpha",
        "duplicates",
        "contradictions",
        "chosen_equals_rejected",
        "length",
    )
    message, report = refused(
        make_spec(tmp_path, model, {"comparisons": rows}, rules=dict.fromkeys(names, "error")),
        tmp_path,
    )
    assert {rule for rule, _ in failed_rules(report)} == set(names)
    assert "longer_wins: found 1 (over" in message and "annotator_alpha: found -0.9" in message


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"demonstrations": [{"q": "a", "a": "b"}]},
            r"demonstrations: found the columns \['a', 'q'\]",
        ),
        ({"comparisons": []}, r"comparisons: .*comparisons\.jsonl has no rows"),
    ],
)
def test_a_source_that_cannot_be_understood_is_refused(change, message, model, tmp_path):
    with pytest.raises(BadInput, match=message):
        run_stage(make_spec(tmp_path, model, change), RunDir(tmp_path / "run"))


def test_a_model_folder_without_a_tokenizer_is_refused(model, tmp_path):
    folder = shutil.copytree(model, tmp_path / "model", ignore=lambda *_: ["tokenizer.json"])
    with pytest.raises(BadInput, match="no tokenizer loads from"):
        run_stage(make_spec(tmp_path, folder, {}), RunDir(tmp_path / "run"))


def test_a_model_that_cannot_be_trained_is_refused(model, tmp_path):
    folder = shutil.copytree(model, tmp_path / "model")
    weights = load_file(folder / "model.safetensors")
    save_file({k: v for k, v in weights.items() if "mlp" not in k}, folder / "model.safetensors")
    with pytest.raises(BadInput, match="model lacks 3 of the model's weights"):
        run_stage(make_spec(tmp_path, folder, {}), RunDir(tmp_path / "run"))
    (folder / "config.json").write_text('{"model_type": "t5"}')
    with pytest.raises(BadInput, match="transformers has no causal language model"):
        run_stage(make_spec(tmp_path, folder, {}), RunDir(tmp_path / "run"))


# ---- Great Expectations fails open, the verdicts do not


@pytest.fixture(scope="module")
def verdicts(tmp_path_factory):
    """Verdicts by (source, rule) on a frame of three rows and on an empty one."""
    full = pd.DataFrame(
        {
            "line": [1, 2, 3],
            "flag": [True, False, False],
            "gap": [True, None, False],
            "nulls": [None] * 3,
        }
    )
    full = full.assign(mean=[0.2, None, 0.4], nothing=[float("nan")] * 3)
    frames = {"full": full, "empty": full.iloc[:0]}
    kinds = {
        "rows": {"kind": "rows", "low": 1},
        "loose": {"kind": "flag", "column": "flag", "high": 0.34},
        "strict": {"kind": "flag", "column": "flag", "high": 0.2},
        "gap": {"kind": "flag", "column": "gap", "high": 1.0},
        "absent": {"kind": "flag", "column": "no such column", "high": 1.0},
        "nulls": {"kind": "present", "column": "nulls"},
        "present": {"kind": "present", "column": "mean"},
        "mean": {"kind": "mean", "column": "mean", "high": 0.5},
        "nothing": {"kind": "mean", "column": "nothing", "high": 0.5},
    }
    checks = [
        Expectation(rule, source, "error", **kind)
        for source in frames
        for rule, kind in kinds.items()
    ]
    found, _ = evaluate(frames, checks, tmp_path_factory.mktemp("docs"))
    return {
        (check.source, check.rule): verdict for check, verdict in zip(checks, found, strict=True)
    }


def test_only_what_was_evaluated_on_every_row_passes(verdicts):
    assert {
        rule for (source, rule), verdict in verdicts.items() if source == "full" and verdict.passed
    } == {"rows", "loose", "present", "mean"}
    assert verdicts["full", "strict"].found == pytest.approx(1 / 3)
    assert (
        verdicts["full", "mean"].found == pytest.approx(0.3)
        and verdicts["full", "mean"].evaluated == 2
    )
    assert verdicts["full", "nothing"].found is None


def test_nothing_passes_on_an_empty_frame(verdicts):
    assert not [
        rule for (source, rule), verdict in verdicts.items() if source == "empty" and verdict.passed
    ]


def test_a_suite_without_checks_is_not_a_success(tmp_path):
    with pytest.raises(AssertionError, match="an empty suite would succeed"):
        evaluate({"a": pd.DataFrame({"line": [1]})}, [], tmp_path)


def test_near_duplicates_of_held_out_files_are_a_warning_with_examples(model, tmp_path):
    long = " ".join(WORDS[20:60])
    sources = {
        "demonstrations": [*demonstrations(), {"prompt": f"{long} w7", "response": "w1"}],
        "demonstrations_heldout": [{"prompt": f"{long} w8", "response": "w2"}],
        "comparisons_heldout": [{"prompt": "w150", "chosen": "w1", "rejected": "w2"}],
    }
    run = RunDir(tmp_path / "run")
    result = run_stage(make_spec(tmp_path, model, sources), run)
    report = json.loads((run.path / "report.json").read_text())
    rules = {(rule["rule"], rule["source"]): rule for rule in report["rules"]}
    rule = rules["near_duplicates", "demonstrations"]
    assert not rule["passed"] and rule["severity"] == "warning"
    assert "1 of 41 rows, first on line 41; e.g. 'w20 w21" in rule["detail"]
    assert result.metrics["data/near_duplicates"] == 1
    (example,) = report["near_duplicates"]
    assert example["text"] == f"{long} w7" and example["heldout_text"] == f"{long} w8"
    assert example["line"] == 41 and example["heldout_line"] == 1
    assert f"{long} w8" in (run.path / "data_docs" / "index.html").read_text()

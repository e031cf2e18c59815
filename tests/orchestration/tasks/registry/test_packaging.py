"""Registered models are standard MLflow models: their answers, their files, how files get there."""

import ast
import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import mlflow
import pandas as pd
import pytest
import torch
from mlflow.exceptions import MlflowException
from mlflow.models import Model
from recipes import tiny_recipe
from transformers import AutoModelForCausalLM, AutoTokenizer

from rlhf_core.batching.batch import encode
from rlhf_core.data.render import DEFAULT_CHAT_TEMPLATE, render_prompt
from rlhf_core.data.splits import load_split
from rlhf_core.digest import digest_path
from rlhf_core.errors import BadInput
from rlhf_core.gates.decide import Decision
from rlhf_core.modeling.ensemble import close_ensemble, member_folder
from rlhf_core.modeling.models import inference, load_scalar, load_tokenizer, save_model
from rlhf_core.pickles import PICKLE_SUFFIXES
from rlhf_core.reward.scoring import score_sequences
from rlhf_core.rundir import Artifact, StageResult
from tasks.records.run_record import Record, Registration
from tasks.records.workspace import Workspace
from tasks.registry import packaging
from tasks.registry.packaging import build, model_folder, read_decisions
from tasks.tracking.tracker import Tracker

ROOT = Path(__file__).resolve().parents[4]
DECISION = Decision(
    stage="reward",
    gate="accuracy",
    metric="reward/accuracy",
    value=0.8,
    n=400,
    interval=(0.76, 0.84),
    bound="at least",
    threshold=0.7,
    passed=True,
    reason="reward/accuracy is 0.8, required at least 0.7",
)

RECIPE = tiny_recipe()


@pytest.fixture(scope="module")
def reward_folder(tiny_model, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("reward") / "model"
    save_model(load_scalar(tiny_model, new_head=True, seed=3), load_tokenizer(tiny_model), folder)
    return folder


@pytest.fixture(scope="module")
def versions(tiny_model, reward_folder, tmp_path_factory) -> dict[str, Path]:
    """Return a version of each kind, by kind."""
    folder = tmp_path_factory.mktemp("versions")
    build("policy", tiny_model, folder / "policy", [DECISION], "# policy")
    build("reward", reward_folder, folder / "reward", [DECISION], "# reward")
    return {kind: folder / kind for kind in ("policy", "reward")}


@pytest.fixture(scope="module")
def policy(versions):
    return mlflow.pyfunc.load_model(str(versions["policy"]))


@pytest.fixture(scope="module")
def reward(versions):
    return mlflow.pyfunc.load_model(str(versions["reward"]))


@pytest.fixture(scope="module")
def pairs(tiny_splits) -> list[dict]:
    """Return more ragged pairs than go through the model at once."""
    rows = load_split(tiny_splits / "comparisons_heldout.jsonl")[:21]
    assert len({len(row["chosen"].split()) for row in rows}) > 4
    return rows


def project_scores(folder: Path, rows: list[dict], field: str) -> list[float]:
    tokenizer = load_tokenizer(folder)
    forward = inference(load_scalar(folder), dtype="float32")
    return score_sequences(
        forward, encode(tokenizer, rows, field), tokenizer.pad_token_id, 200
    ).tolist()


def test_the_reward_model_scores_pairs_as_training_does(reward, reward_folder, pairs):
    found = reward.predict(pairs)
    chosen, rejected = (
        project_scores(reward_folder, pairs, field) for field in ("chosen", "rejected")
    )
    assert found["chosen_score"].tolist() == pytest.approx(chosen, abs=1e-5)
    assert found["rejected_score"].tolist() == pytest.approx(rejected, abs=1e-5)
    assert found["margin"].tolist() == pytest.approx(
        [a - b for a, b in zip(chosen, rejected, strict=True)], abs=2e-5
    )
    assert found["probability"].tolist() == pytest.approx(
        torch.sigmoid(torch.tensor(found["margin"])).tolist(), abs=1e-6
    )
    assert len({round(value, 4) for value in chosen + rejected}) > 20


def test_conversations_score_what_their_pair_scores(reward, reward_folder, pairs):
    conversations = [
        {"messages": [*row["prompt"], {"role": "assistant", "content": row["chosen"]}]}
        for row in pairs
    ]
    found = reward.predict(pd.DataFrame(conversations, index=range(100, 100 + len(pairs))))
    assert found["score"].tolist() == pytest.approx(
        project_scores(reward_folder, pairs, "chosen"), abs=1e-5
    )
    assert found.index[0] == 100
    assert reward.predict(conversations[0])["score"][0] == pytest.approx(
        found["score"][100], abs=1e-5
    )


def test_a_prompt_may_be_text_or_messages(reward, pairs):
    as_text = [row | {"prompt": row["prompt"][-1]["content"]} for row in pairs]
    assert reward.predict(as_text).equals(reward.predict(pairs))


def test_a_conversation_is_scored_turn_by_turn_history_included(reward, pairs):
    history = [
        {"role": "user", "content": "w1 w2"},
        {"role": "assistant", "content": "w3"},
        *pairs[0]["prompt"],
    ]
    longer = reward.predict([pairs[0] | {"prompt": history}])
    assert abs(longer["chosen_score"][0] - reward.predict(pairs[:1])["chosen_score"][0]) > 1e-4


def plain_replies(folder: Path, rows: list[dict], tokens: int) -> list[str]:
    """Generate for one prompt at a time, with transformers alone."""
    tokenizer, model = (
        AutoTokenizer.from_pretrained(folder),
        AutoModelForCausalLM.from_pretrained(folder).eval(),
    )
    replies = []
    for row in rows:
        ids = torch.tensor([render_prompt(tokenizer, row["prompt"])])
        whole = model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=tokens, do_sample=False
        )
        replies.append(tokenizer.decode(whole[0, ids.shape[1] :], skip_special_tokens=True))
    return replies


def test_greedy_replies_to_ragged_prompts_are_those_of_transformers(policy, tiny_model, pairs):
    assert len({len(row["prompt"][0]["content"].split()) for row in pairs}) > 3
    found = policy.predict(
        [{"messages": row["prompt"]} for row in pairs], params={"max_tokens": 12}
    )
    assert found == plain_replies(tiny_model, pairs, 12)
    assert len(set(found)) > 3


def test_chat_input_comes_as_one_conversation_a_list_or_a_frame(policy, pairs, tmp_path):
    chats, limit = [{"messages": row["prompt"]} for row in pairs[:3]], {"max_tokens": 5}
    frame = pd.DataFrame(chats)
    frame.to_parquet(tmp_path / "chats.parquet")
    answers = policy.predict(chats, params=limit)
    assert policy.predict(frame, params=limit) == answers
    assert policy.predict(pd.read_parquet(tmp_path / "chats.parquet"), params=limit) == answers
    assert policy.predict(chats[0], params=limit) == answers[:1]


def test_a_seed_fixes_sampled_replies(policy, pairs):
    chats = [{"messages": row["prompt"]} for row in pairs[:4]]

    def sampled(seed: int) -> list[str]:
        return policy.predict(chats, params={"temperature": 1.0, "max_tokens": 12, "seed": seed})

    before = torch.random.get_rng_state()
    assert sampled(1) == sampled(1) != sampled(2)
    assert torch.equal(before, torch.random.get_rng_state()), (
        "the caller's own random state is left alone"
    )


def test_samples_come_from_the_whole_vocabulary_and_differ_between_equal_prompts(policy, pairs):
    """Transformers keeps the 50 likeliest tokens; the policy was trained and measured on all 62."""
    chats = [{"messages": pairs[0]["prompt"]}] * 800
    replies = policy.predict(
        chats, params={"temperature": 1000.0, "max_tokens": 1}
    )  # nearly uniform
    assert len(set(replies)) > 55


@pytest.mark.slow
def test_the_folders_own_generation_settings_change_nothing(tiny_model, policy, pairs, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(tiny_model, folder)
    (folder / "generation_config.json").write_text(
        json.dumps({"do_sample": True, "temperature": 9.0, "max_new_tokens": 3})
    )
    build("policy", folder, tmp_path / "version", [], "")
    chats = [{"messages": row["prompt"]} for row in pairs[:3]]
    assert mlflow.pyfunc.load_model(str(tmp_path / "version")).predict(chats) == policy.predict(
        chats
    )


@pytest.mark.parametrize(
    ("kind", "rows", "message"),
    [
        (
            "policy",
            {"messages": [{"role": "user", "content": "w1 " * 1100}]},
            "the model reads 1024",
        ),
        ("policy", [{"role": "user", "content": "w1"}], "missing inputs \\['messages'\\]"),
        (
            "reward",
            {"messages": [{"role": "user", "content": "w1"}]},
            "end with the assistant's turn",
        ),
        (
            "reward",
            {"prompt": "w1", "chosen": "w2"},
            "expected only 'messages', or 'prompt', 'chosen' and 'rejected'",
        ),
        (
            "reward",
            {"prompt": 7, "chosen": "w2", "rejected": "w3"},
            "expected a prompt \\(text or messages\\)",
        ),
        (
            "reward",
            {"prompt": "w1 " * 1100, "chosen": "w2", "rejected": "w3"},
            "the model reads 1024",
        ),
    ],
)
def test_input_that_cannot_be_answered_is_refused_in_words(kind, rows, message, policy, reward):
    with pytest.raises(MlflowException, match=message):
        {"policy": policy, "reward": reward}[kind].predict(rows)


@pytest.mark.parametrize("kind", ["policy", "reward"])
def test_a_version_is_a_complete_mlflow_model_without_pickles(kind, versions):
    root = versions[kind]
    meta = Model.load(str(root))
    assert meta.signature.inputs.input_names()[0] == "messages" and meta.signature.outputs
    pins = (root / "requirements.txt").read_text().split()
    assert pins == [
        f"{name}=={packaging.version(name).split('+')[0]}"
        for name in ("mlflow", "torch", "transformers")
    ]
    files = [file for file in root.rglob("*") if file.is_file()]
    assert not [file for file in files if file.suffix in PICKLE_SUFFIXES]
    assert (
        meta.model_size_bytes > (root / "artifacts" / "model" / "model.safetensors").stat().st_size
    )
    assert read_decisions(root) == [DECISION] and (root / "README.md").read_text() == f"# {kind}"


@pytest.mark.parametrize("kind", ["policy", "reward"])
def test_the_input_example_is_answered(kind, request):
    model = request.getfixturevalue(kind)
    assert model.input_example == packaging.EXAMPLES[kind]
    assert len(model.predict(model.input_example)) == 1


@pytest.mark.parametrize("kind", ["policy", "reward"])
def test_the_code_of_a_version_needs_no_project(kind):
    tree = ast.parse((ROOT / "mlflow" / f"{kind}_model.py").read_text())
    modules = {
        alias.name.split(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import)
        for alias in node.names
    }
    modules |= {
        node.module.split(".")[0] for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)
    }
    assert modules - set(sys.stdlib_module_names) <= {
        "mlflow",
        "numpy",
        "pandas",
        "torch",
        "transformers",
    }


def test_a_reward_model_without_a_chat_template_gets_the_one_of_training(
    reward_folder, pairs, tmp_path
):
    folder = tmp_path / "model"
    shutil.copytree(reward_folder, folder)
    (folder / "chat_template.jinja").unlink()
    assert AutoTokenizer.from_pretrained(folder).chat_template is None
    build("reward", folder, tmp_path / "version", [], "")
    found = mlflow.pyfunc.load_model(str(tmp_path / "version"))
    assert found.unwrap_python_model().tokenizer.chat_template == DEFAULT_CHAT_TEMPLATE
    assert found.predict(pairs)["chosen_score"].tolist() == pytest.approx(
        project_scores(folder, pairs, "chosen"), abs=1e-5
    )


def test_pickles_are_refused_when_a_version_is_made_and_when_it_is_loaded(
    tiny_model, versions, tmp_path
):
    folder = tmp_path / "model"
    shutil.copytree(tiny_model, folder)
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    with pytest.raises(BadInput, match=r"pytorch_model\.bin.*safetensors only"):
        build("policy", folder, tmp_path / "version", [], "")
    assert not (tmp_path / "version").exists()
    shutil.copytree(versions["policy"], tmp_path / "copy")
    shutil.copy(folder / "pytorch_model.bin", tmp_path / "copy" / "artifacts" / "model")
    with pytest.raises(MlflowException, match="expected safetensors only"):
        mlflow.pyfunc.load_model(str(tmp_path / "copy"))


def bytes_on_disk(*folders: Path) -> int:
    """Return the bytes of files together; a hard-linked file counts once."""
    stats = [file.stat() for folder in folders for file in folder.rglob("*") if file.is_file()]
    return sum({(stat.st_dev, stat.st_ino): stat.st_size for stat in stats}.values())


def test_weights_are_stored_once_however_often_a_version_is_made(tiny_model, tmp_path):
    source, target = tmp_path / "run" / "model", tmp_path / "store" / "artifacts"
    shutil.copytree(tiny_model, source)
    (source / "config.json").rename(tmp_path / "run" / "blob")
    (source / "config.json").symlink_to("../blob")  # as in a hub's cache
    alone = bytes_on_disk(source)
    build("policy", source, target, [], "first")
    both = bytes_on_disk(tmp_path)
    assert both - alone < 20_000 < alone
    weights = target / "artifacts" / "model" / "model.safetensors"
    assert (
        weights.stat().st_ino == (source / "model.safetensors").stat().st_ino
        and weights.stat().st_nlink == 2
    )
    build("policy", source, target, [DECISION], "second")
    assert abs(bytes_on_disk(tmp_path) - both) < 2_000
    assert read_decisions(target) == [DECISION] and (target / "README.md").read_text() == "second"
    assert digest_path(model_folder(target)) == digest_path(source)
    assert not (target / "artifacts" / "model" / "config.json").is_symlink()
    assert [path.name for path in target.parent.iterdir()] == ["artifacts"]


def test_making_a_version_again_mends_its_code_and_its_weights(tiny_model, tmp_path):
    target = tmp_path / "version"
    build("policy", tiny_model, target, [], "")
    code = (target / "policy_model.py").read_text()
    (target / "policy_model.py").write_text("raise SystemExit('not what was registered')")
    build("policy", tiny_model, target, [], "")
    assert (target / "policy_model.py").read_text() == code
    weights = target / "artifacts" / "model" / "model.safetensors"
    weights.unlink()
    weights.write_bytes(b"other bytes")
    build("policy", tiny_model, target, [], "")
    assert digest_path(model_folder(target)) == digest_path(tiny_model)


def test_a_flat_version_of_before_is_read_and_then_made_anew(tiny_model, tmp_path):
    flat = tmp_path / "version"
    shutil.copytree(tiny_model, flat)
    assert model_folder(flat) == flat and read_decisions(flat) == []
    build("policy", tiny_model, flat, [DECISION], "")
    assert (
        model_folder(flat) == flat / "artifacts" / "model" and not (flat / "config.json").exists()
    )


KILLED = """
import os, signal, sys
from pathlib import Path
from tasks.registry.packaging import build
die = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
build("policy", Path(sys.argv[1]), Path(sys.argv[2]), [], "", place=die)
"""


def test_a_killed_registration_leaves_nothing_half_made(tiny_model, tmp_path):
    target = tmp_path / "version"
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, str(tiny_model), str(target)], cwd=ROOT, capture_output=True
    )
    assert killed.returncode == -signal.SIGKILL and not target.exists()
    build("policy", tiny_model, target, [], "")
    assert mlflow.pyfunc.load_model(str(target)).predict(
        packaging.EXAMPLES["policy"], params={"max_tokens": 1}
    )


@pytest.mark.parametrize(
    "text", ["", "{}", '{"decisions": 3}', '{"decisions": [{"stage": "reward"}]}']
)
def test_decisions_that_cannot_be_read_are_bad_input(text, tmp_path):
    (tmp_path / "gates.json").write_text(text)
    with pytest.raises(BadInput, match="does not hold gate decisions"):
        read_decisions(tmp_path)


def register(tracker: Tracker, name: str, folder: Path, note: str) -> None:
    """End a stage and have its model registered, as a pipeline does."""
    run = tracker.workspace.runs / name
    run.mkdir(parents=True, exist_ok=True)
    (run / "result.json").write_text(
        StageResult(stage=name, digest="d", seconds=1.0).model_dump_json()
    )
    tracker.stage_started(name, run, cached=False)
    tracker.stage_ended(name, status="FINISHED")
    wanted = Registration(
        model=f"tiny-{name}",
        stage=name,
        artifact=Artifact.of(folder),
        tags={},
        decisions=[DECISION],
        note=note,
        card=note,
    )
    tracker.register(wanted)
    assert tracker.retry(), tracker.problem


def test_champions_load_by_alias_from_a_sqlite_registry(home, tiny_model, reward_folder, pairs):
    workspace = Workspace.here()
    tracker = Tracker(workspace, Record.new(workspace, RECIPE))
    for name, folder in (("policy", tiny_model), ("reward", reward_folder)):
        register(tracker, name, folder, f"card of {name}")
        tracker.client.set_registered_model_alias(f"tiny-{name}", "champion", "1")
    version = tracker.client.get_model_version_by_alias("tiny-policy", "champion")
    assert version.description == "card of policy" and version.tags["digest"] == digest_path(
        tiny_model
    )
    champion = mlflow.pyfunc.load_model("models:/tiny-policy@champion")
    replies = champion.predict({"messages": pairs[0]["prompt"]}, params={"max_tokens": 12})
    assert replies == plain_replies(tiny_model, pairs[:1], 12)
    scores = mlflow.pyfunc.load_model("models:/tiny-reward@champion").predict(pairs)
    assert scores["chosen_score"].tolist() == pytest.approx(
        project_scores(reward_folder, pairs, "chosen"), abs=1e-5
    )
    again = bytes_on_disk(workspace.artifacts)
    for name, folder in (("policy", tiny_model), ("reward", reward_folder)):
        register(tracker, name, folder, "renewed")
    assert abs(bytes_on_disk(workspace.artifacts) - again) < 2_000
    version = tracker.client.get_model_version_by_alias("tiny-policy", "champion")
    assert int(version.version) == 1 and version.description == "renewed"


def test_an_ensemble_answers_with_the_mean_of_its_members_less_their_offsets(
    tiny_model, pairs, tmp_path
):
    tokenizer, folder, expected = load_tokenizer(tiny_model), tmp_path / "model", []
    sequences = encode(tokenizer, pairs, "chosen")
    for number, offset in ((1, 0.25), (2, -1.5)):
        model = load_scalar(tiny_model, new_head=True, seed=number)
        save_model(model, tokenizer, member_folder(folder, number))
        expected.append(
            score_sequences(
                inference(model, dtype="float32"), sequences, tokenizer.pad_token_id, 4096
            )
            - offset
        )
    close_ensemble(folder, [0.25, -1.5])
    build("reward", folder, tmp_path / "version", [DECISION], "# reward")
    rows = [
        {"prompt": row["prompt"], "chosen": row["chosen"], "rejected": row["rejected"]}
        for row in pairs
    ]
    found = mlflow.pyfunc.load_model(str(tmp_path / "version")).predict(pd.DataFrame(rows))
    assert torch.tensor(found["chosen_score"]).allclose(
        torch.stack(expected).mean(0).double(), atol=1e-4
    )
    assert digest_path(model_folder(tmp_path / "version")) == digest_path(folder)


@pytest.mark.parametrize("kind", ["policy", "reward"])
def test_other_bytes_than_those_registered_are_not_loaded(versions, kind, tmp_path):
    folder = tmp_path / "version"
    shutil.copytree(versions[kind], folder)
    assert mlflow.pyfunc.load_model(str(folder))
    (folder / "artifacts/model/config.json").write_text(
        (folder / "artifacts/model/config.json").read_text() + " "
    )
    with pytest.raises(
        mlflow.MlflowException, match=r"has digest [0-9a-f]{12}, registered was [0-9a-f]{12}"
    ):
        mlflow.pyfunc.load_model(str(folder))

"""Registered models answer as the project and transformers do, in every form of input."""

import json
import shutil

import mlflow
import pandas as pd
import pytest
import torch
from mlflow.exceptions import MlflowException
from passed_gate import DECISION
from plain_answers import plain_replies, project_scores
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    CodeGenConfig,
    CohereConfig,
    GraniteConfig,
    PreTrainedTokenizerFast,
    XGLMConfig,
)

from rlhf_core.batching.batch import encode
from rlhf_core.data.chat_template import DEFAULT_CHAT_TEMPLATE
from rlhf_core.data.end_of_turn import set_end_of_turn
from rlhf_core.data.render import render_prompt, render_response
from rlhf_core.data.tokenizer import load_tokenizer
from rlhf_core.digest import digest_path
from rlhf_core.errors import BadInput
from rlhf_core.modeling.ensemble import close_ensemble, member_folder
from rlhf_core.modeling.models import inference, load_scalar, save_model
from rlhf_core.reward.scoring import score_sequences
from rlhf_core.sampling.stops import stop_ids_of
from tasks.registry import frame
from tasks.registry.answers import predict_once
from tasks.registry.packaging import VersionRecords, build, model_folder


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
    # nearly uniform
    replies = policy.predict(chats, params={"temperature": 1000.0, "max_tokens": 1})
    assert len(set(replies)) > 55


@pytest.mark.slow
def test_the_folders_own_generation_settings_change_nothing(tiny_model, policy, pairs, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(tiny_model, folder)
    (folder / "generation_config.json").write_text(
        json.dumps({"do_sample": True, "temperature": 9.0, "max_new_tokens": 3})
    )
    build("policy", folder, tmp_path / "version", VersionRecords())
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
def test_the_input_example_is_answered(kind, request):
    model = request.getfixturevalue(kind)
    assert model.input_example == frame.EXAMPLES[kind]
    assert len(model.predict(model.input_example)) == 1


def test_a_reward_model_without_a_chat_template_gets_the_one_of_training(
    reward_folder, pairs, tmp_path
):
    folder = tmp_path / "model"
    shutil.copytree(reward_folder, folder)
    (folder / "chat_template.jinja").unlink()
    assert AutoTokenizer.from_pretrained(folder).chat_template is None
    build("reward", folder, tmp_path / "version", VersionRecords())
    found = mlflow.pyfunc.load_model(str(tmp_path / "version"))
    assert found.unwrap_python_model().tokenizer.chat_template == DEFAULT_CHAT_TEMPLATE
    assert found.predict(pairs)["chosen_score"].tolist() == pytest.approx(
        project_scores(folder, pairs, "chosen"), abs=1e-5
    )


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
    build("reward", folder, tmp_path / "version", VersionRecords([DECISION], "# reward"))
    rows = [
        {"prompt": row["prompt"], "chosen": row["chosen"], "rejected": row["rejected"]}
        for row in pairs
    ]
    found = mlflow.pyfunc.load_model(str(tmp_path / "version")).predict(pd.DataFrame(rows))
    assert torch.tensor(found["chosen_score"]).allclose(
        torch.stack(expected).mean(0).double(), atol=1e-4
    )
    assert digest_path(model_folder(tmp_path / "version")) == digest_path(folder)


@pytest.mark.parametrize("kind", ["policy", "reward", "reward without a template"])
def test_a_prompt_begins_with_bos_once_where_the_tokenizer_adds_it(
    tiny_model, reward_folder, pairs, tmp_path, kind
):
    """As in training, also where the template in the folder writes none."""
    folder, pairs = tmp_path / "model", [row for row in pairs if "w55" not in json.dumps(row)]
    shutil.copytree(tiny_model if kind == "policy" else reward_folder, folder)
    _begin_with_bos(folder, keep_template=not kind.endswith("template"))
    build(kind.split()[0], folder, tmp_path / "version", VersionRecords())
    found = mlflow.pyfunc.load_model(str(tmp_path / "version"))
    tokenizer, messages = load_tokenizer(folder), [{"role": "user", "content": "w1 w2"}]
    expected = render_prompt(tokenizer, messages)
    assert expected[0] == tokenizer.bos_token_id and expected.count(tokenizer.bos_token_id) == 1
    if kind == "policy":
        assert found.unwrap_python_model()._prompt(0, messages) == expected
        return
    assert found.predict(pairs)["chosen_score"].tolist() == pytest.approx(
        project_scores(folder, pairs, "chosen"), abs=1e-5
    )


def _begin_with_bos(folder, *, keep_template: bool) -> None:
    """Make the tokenizer in a folder begin each text with the token w55, as Llama's does."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.bos_token = "w55"
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="w55 $A", special_tokens=[("w55", tokenizer.convert_tokens_to_ids("w55"))]
    )
    tokenizer.save_pretrained(folder)
    if not keep_template:
        (folder / "chat_template.jinja").unlink()


def test_a_reply_is_scored_with_what_the_template_writes_around_it(reward_folder, pairs, tmp_path):
    """As in training: Llama 2 and Vicuna write blanks there, which their tokenizers keep."""
    folder = tmp_path / "model"
    shutil.copytree(reward_folder, folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = (
        "{% for m in messages %}{% if m.role == 'assistant' %}"
        "{{ 'assistant : w50 ' + m.content + ' ' + eos_token + ' ' }}"
        "{% else %}{{ 'user : ' + m.content + ' ' }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'assistant : ' }}{% endif %}"
    )
    tokenizer.save_pretrained(folder)
    build("reward", folder, tmp_path / "version", VersionRecords())
    found = mlflow.pyfunc.load_model(str(tmp_path / "version")).predict(pairs)
    for field in ("chosen", "rejected"):
        assert found[f"{field}_score"].tolist() == pytest.approx(
            project_scores(folder, pairs, field), abs=1e-5
        )
    response = render_response(load_tokenizer(folder), "w1")
    assert tokenizer.convert_ids_to_tokens(response) == ["w50", "w1", "<eos>"]


CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'].strip()"
    " + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


@pytest.fixture(scope="module")
def chatml():
    """A byte-level tokenizer whose template ends a turn with another token than eos_token."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    core.train_from_iterator(["user assistant Why So"], trainer)
    made = PreTrainedTokenizerFast(
        tokenizer_object=core,
        eos_token="<|endoftext|>",
        additional_special_tokens=["<|im_start|>", "<|im_end|>"],
    )
    made.chat_template = CHATML
    return made


SPELLED = [
    "Why?",
    "<|im_end|>",
    "a<|im_end|>\n<|im_start|>system\nb<|endoftext|>",
    "<eos> w1 <pad> w2",
    "\ue000<|im_end|>\ue0010\ue000",
]


@pytest.mark.parametrize("text", SPELLED)
def test_a_text_that_spells_a_special_token_stays_text_as_in_training(
    policy, reward, chatml, tiny_model, text
):
    shipped = policy.unwrap_python_model().render
    messages = [{"role": "user", "content": text}]
    for tokenizer in (chatml, load_tokenizer(tiny_model)):
        set_end_of_turn(tokenizer)
        assert shipped.render_prompt(tokenizer, messages) == render_prompt(tokenizer, messages)
        assert shipped.render_response(tokenizer, text) == render_response(tokenizer, text)
    assert chatml.eos_token == "<|im_end|>"
    own = policy.unwrap_python_model()
    assert own._prompt(0, messages) == render_prompt(own.tokenizer, messages)
    (expected,) = encode(own.tokenizer, [{"prompt": messages, "reply": text}], "reply")
    found = reward.unwrap_python_model()._ids(0, messages, text)
    assert found == expected.prompt + expected.response


def test_a_dialogue_is_read_part_by_part_as_in_training(policy, reward, chatml):
    own, scored = policy.unwrap_python_model(), reward.unwrap_python_model()
    dialogue = [
        {"role": "user", "content": "w1 <eos>"},
        {"role": "assistant", "content": " w3 "},
        {"role": "user", "content": "w4"},
    ]
    for tokenizer in (chatml, own.tokenizer):
        set_end_of_turn(tokenizer)
        expected = render_prompt(tokenizer, dialogue)
        first = render_prompt(tokenizer, dialogue[:1]) + render_response(tokenizer, " w3 ")
        assert own.render.render_prompt(tokenizer, dialogue) == expected
        assert expected[: len(first)] == first
    (row,) = encode(scored.tokenizer, [{"prompt": dialogue, "reply": "w5"}], "reply")
    assert scored._ids(0, dialogue, "w5") == row.prompt + row.response


@pytest.mark.parametrize("listed", [None, [2, 5]])
def test_the_served_policy_stops_where_the_pipelines_samplers_do(tiny_model, tmp_path, listed):
    folder = shutil.copytree(tiny_model, tmp_path / "model")
    settings = {"eos_token_id": listed} if listed else {}
    (folder / "generation_config.json").write_text(json.dumps(settings))
    build("policy", folder, tmp_path / "version", VersionRecords())
    served = mlflow.pyfunc.load_model(str(tmp_path / "version")).unwrap_python_model()
    stops = stop_ids_of(folder) | {load_tokenizer(folder).eos_token_id}
    assert set(served.model.generation_config.eos_token_id) == stops == {1, *(listed or [])}


@pytest.mark.parametrize("family", [GraniteConfig, CohereConfig, CodeGenConfig, XGLMConfig])
def test_a_scalar_head_on_a_family_without_a_classifier_scores_the_same_when_served(
    family, tiny_model, pairs, tmp_path
):
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    more = {CodeGenConfig: {"rotary_dim": 8}, XGLMConfig: {"ffn_dim": 64}}
    ids = {"pad_token_id": 0, "eos_token_id": 1, "bos_token_id": None}
    config = family(vocab_size=62, **sizes, **ids, **more.get(family, {"intermediate_size": 64}))
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "base")
    scalar = load_scalar(tmp_path / "base", new_head=True, seed=3)
    save_model(scalar, load_tokenizer(tiny_model), tmp_path / "reward")
    build("reward", tmp_path / "reward", tmp_path / "version", VersionRecords())
    predict_once("reward", tmp_path / "version")
    served = mlflow.pyfunc.load_model(str(tmp_path / "version"))
    expected = project_scores(tmp_path / "reward", pairs, "chosen")
    assert served.predict(pairs)["chosen_score"].tolist() == pytest.approx(expected, abs=1e-5)
    assert len({round(score, 4) for score in expected}) > 10


def test_a_version_that_scores_otherwise_in_mlflow_is_refused(reward_folder, tmp_path):
    build("reward", reward_folder, tmp_path / "version", VersionRecords())
    predict_once("reward", tmp_path / "version")
    code = tmp_path / "version" / "reward_model.py"
    code.write_text(code.read_text().replace("length - 1 for length", "length - 2 for length"))
    with pytest.raises(BadInput, match=r"scores -?\d.* in this pipeline and -?\d.* as an MLflow"):
        predict_once("reward", tmp_path / "version")

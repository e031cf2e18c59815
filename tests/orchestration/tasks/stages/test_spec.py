"""What a stage's identity depends on, and what it does not."""

import json

import pytest
from recipes import tiny_recipe

from rlhf_core.config import Recipe
from rlhf_core.data.splits import SPLITS
from rlhf_core.errors import BadInput
from rlhf_core.rundir import Artifact, StageResult
from tasks.run_context import check_paths
from tasks.stages import capacity, evaluate, ppo, prepare, reward, sft, validate
from tasks.stages.capacity import require_samplers

MODEL_FILES = ("config.json", "tokenizer_config.json", "model.safetensors")


@pytest.fixture
def have(tmp_path):
    """Everything a stage may take, each a folder of its own content."""
    names = ("base", "sft", "reward", "policy", "files", *SPLITS)
    for name in names:
        (tmp_path / name).mkdir()
        (tmp_path / name / "data.jsonl").write_text(name)
        for file in MODEL_FILES:
            (tmp_path / name / file).write_text("{}")
    return {name: Artifact.of(tmp_path / name) for name in names}


def recipe(**changes) -> Recipe:
    """Return a recipe on the base model and the files of the quickstart."""
    data = {"demonstrations": "{prepared}/data.jsonl", "comparisons": "org/name"}
    return tiny_recipe(**{"model": {"base": "quickstart"}, "data": data} | changes)


def test_a_threshold_or_a_registry_name_is_in_no_spec(have):
    strict = recipe(
        sft={"gate": {"min_improvement": 0.5}},
        reward={"gate": {"min_accuracy": 0.9}},
        ppo={"gate": {"max_kl_per_response": 1.0}},
        evaluate={"gate": {"min_prompts": 9}},
        registry={"name": "other", "min_win_rate_vs_champion": 0.9},
    )
    for stage in (prepare, validate, sft, reward, ppo, evaluate):
        assert stage.spec(strict, have).digest == stage.spec(recipe(), have).digest


def test_a_policy_learning_rate_is_in_the_ppo_spec_only(have):
    other = recipe(ppo={"policy_lr": 1e-3})
    changed = [
        s
        for s in (prepare, validate, sft, reward, ppo)
        if s.spec(other, have).digest != s.spec(recipe(), have).digest
    ]
    assert changed == [ppo]


def test_prepared_files_are_inputs_by_content_and_hub_names_are_not(have):
    spec = validate.spec(recipe(), have)
    assert set(spec.inputs) == {"model", "demonstrations"}
    assert spec.inputs["demonstrations"].path == have["files"].path / "data.jsonl"
    assert spec.config["data"]["demonstrations"]["path"] == "{prepared}/data.jsonl"


@pytest.mark.parametrize("path", ["nowhere.jsonl", "data/nowhere.jsonl", "./nowhere", "plain-name"])
def test_a_path_that_is_nothing_is_refused_by_field_and_path(have, path):
    data = {"demonstrations": "org/name", "comparisons": path}
    with pytest.raises(BadInput, match=r"data\.comparisons is ") as refused:
        validate.spec(recipe(data=data), have)
    assert path in str(refused.value)


def test_a_given_model_is_measured_and_used_in_place_of_a_trained_one(have, tmp_path):
    given = recipe(model={"base": "quickstart", "sft": str(tmp_path / "sft")})
    spec = sft.spec(given, have)
    assert spec.config["train"] is False and spec.inputs["given"].digest == have["sft"].digest


def test_a_reward_adapter_goes_from_the_reward_stage_to_ppo_where_it_is_asked_for(have):
    made = StageResult(
        stage="reward",
        digest="d",
        seconds=1.0,
        outputs={"model": have["reward"], "adapter": have["base"]},
    )
    given = have | reward.gives(recipe(), have, made)
    assert "reward_adapter" not in ppo.spec(recipe(), given).inputs
    shared = recipe(reward={"lora": True}, ppo={"reward_trunk": "reference"})
    assert ppo.spec(shared, given).inputs["reward_adapter"] == have["base"]
    assert "reward_adapter" not in reward.gives(
        recipe(), have, made.model_copy(update={"outputs": {"model": have["reward"]}})
    )


def test_a_reward_function_is_part_of_ppo_by_its_source_and_makes_the_reward_model_optional(
    have, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "spec_rules.py").write_text(
        "def score(prompts, replies):\n    return [0.0] * len(replies)\n"
    )
    both = recipe(ppo={"reward": {"functions": ["spec_rules:score"]}})
    alone = recipe(ppo={"reward": {"functions": ["spec_rules:score"], "model_weight": 0}})
    before = ppo.spec(both, have)
    assert set(before.inputs) == {"policy", "reward", "prompts_train", "function_1"}
    assert set(ppo.spec(alone, have).inputs) == {"policy", "prompts_train", "function_1"}
    (tmp_path / "spec_rules.py").write_text(
        "def score(prompts, replies):\n    return [1.0] * len(replies)\n"
    )
    assert ppo.spec(both, have).digest != before.digest


@pytest.mark.parametrize(
    ("name", "source", "message"),
    [
        ("no_such_rules:score", None, "functions is 'no_such_rules:score': no such module"),
        ("sys:exit", None, "functions is 'sys:exit': no such module"),
        (
            "rules_a:scroe",
            "def score(p, r): ...\nclass Rule: ...\n",
            "rules_a.py has no 'scroe'; it defines Rule, score",
        ),
        (
            "rules_b:score",
            "def score(p, r):\nreturn",
            "rules_b.py is no Python: expected an indented block",
        ),
        ("rules_c:score", "from math import *\n", None),
        ("rules_d:score", "if True:\n    from json import dumps as score\n", None),
        ("rules_e:score", "score = len\n", None),
    ],
)
def test_a_reward_function_that_is_not_there_is_refused_before_anything_runs(
    have, tmp_path, monkeypatch, name, source, message
):
    monkeypatch.chdir(tmp_path)
    if source is not None:
        (tmp_path / f"{name.partition(':')[0]}.py").write_text(source)
    asked = recipe(ppo={"reward": {"functions": [name]}}, model={"base": str(tmp_path / "base")})
    if message is None:
        assert ppo.sources(asked.ppo.reward)
        return
    with pytest.raises(BadInput, match=rf"ppo\.reward\..*{message}"):
        check_paths(asked)


def test_the_champion_is_compared_with_unless_it_is_the_policy_itself(have):
    assert "champion" in evaluate.spec(recipe(), have | {"champion": have["sft"]}).inputs
    assert "champion" not in evaluate.spec(recipe(), have | {"champion": have["policy"]}).inputs


def test_a_local_base_model_needs_no_preparation(tmp_path, have):
    local = recipe(model={"base": str(tmp_path / "base")})
    assert (
        prepare.spec(local, {}) is None
        and prepare.gives(local, {}, None)["base"].digest == have["base"].digest
    )
    with pytest.raises(BadInput, match=r"model.base is './missing'"):
        prepare.spec(recipe(model={"base": "./missing"}), {})


def test_what_options_need_of_the_data_is_asked_of_validate_and_of_no_other_recipe(have):
    assert "needs" not in validate.spec(recipe(), have).config
    assert validate.spec(recipe(reward={"margin_scale": 0.5}), have).config["needs"] == {
        "strength": True
    }


@pytest.mark.parametrize("missing", MODEL_FILES)
@pytest.mark.parametrize("field", ["base", "sft", "reward"])
def test_a_model_folder_without_weights_or_tokenizer_is_refused_before_anything_runs(
    have, tmp_path, field, missing
):
    (tmp_path / "sft" / missing).unlink()
    (tmp_path / "sft" / "pytorch_model.bin").write_bytes(b"pickled")
    with pytest.raises(
        BadInput, match=rf"model.{field} is .* holds no (\*|config|tokenizer).*save_pretrained"
    ):
        check_paths(recipe(model={"base": "quickstart", field: str(tmp_path / "sft")}))


def test_a_missing_data_file_is_refused_before_anything_runs():
    data = {"demonstrations": "{prepared}/data.jsonl", "comparisons": "nowhere.jsonl"}
    with pytest.raises(BadInput, match=r"data\.comparisons is 'nowhere.jsonl'"):
        check_paths(recipe(data=data))


def test_a_further_reward_model_is_in_the_evaluation_by_its_bytes_not_its_place(have, tmp_path):
    spec = evaluate.spec(
        recipe(evaluate={"reward_models": [str(tmp_path / "sft"), str(tmp_path / "base")]}), have
    )
    assert (spec.inputs["reward_2"].digest, spec.inputs["reward_3"].digest) == (
        have["sft"].digest,
        have["base"].digest,
    )
    (tmp_path / "sft").rename(tmp_path / "moved")
    moved = evaluate.spec(
        recipe(evaluate={"reward_models": [str(tmp_path / "moved"), str(tmp_path / "base")]}), have
    )
    assert moved.digest == spec.digest != evaluate.spec(recipe(), have).digest


@pytest.mark.parametrize("field", ["independent_scorer", "judge"])
def test_an_edited_scorer_is_asked_again(have, tmp_path, monkeypatch, field):
    monkeypatch.chdir(tmp_path)
    name = f"opinions_{tmp_path.name}"
    value = f"{name}:score"
    section = {field: {"function": value} if field == "judge" else value}
    (tmp_path / f"{name}.py").write_text("def score(*texts): return [0.0]\n")
    before = evaluate.spec(recipe(evaluate=section), have)
    assert before.inputs[field].path == tmp_path / f"{name}.py"
    (tmp_path / f"{name}.py").write_text("def score(*texts): return [1.0]\n")
    assert evaluate.spec(recipe(evaluate=section), have).digest != before.digest


@pytest.mark.parametrize(
    ("section", "key"),
    [
        ({"reward_models": ["nowhere"]}, "evaluate.reward_models is 'nowhere'"),
        (
            {"independent_scorer": "no_such_module:score"},
            "evaluate.independent_scorer is 'no_such_module:score'",
        ),
        (
            {"judge": {"function": "no.such.module:judge"}},
            "evaluate.judge.function is 'no.such.module:judge'",
        ),
        (
            {"judge": {"endpoint": "http://x/v1", "model": "m", "api_key_env": "NO_SUCH_KEY"}},
            "NO_SUCH_KEY, which is not set",
        ),
    ],
)
def test_an_opinion_that_is_not_there_is_refused_before_anything_runs(section, key):
    with pytest.raises(BadInput, match=key):
        check_paths(recipe(evaluate=section))


@pytest.mark.parametrize(
    ("changes", "key", "response"),
    [
        ({}, None, None),
        ({"ppo": {"sampling": {"max_new_tokens": 257}}}, "ppo.sampling.max_new_tokens", 257),
        (
            {"evaluate": {"sampling": {"max_new_tokens": 300}}},
            "evaluate.sampling.max_new_tokens",
            300,
        ),
        (
            {
                "data": {
                    "demonstrations": "org/a",
                    "comparisons": "org/b",
                    "max_response_tokens": 500,
                }
            },
            "data.max_response_tokens",
            500,
        ),
    ],
)
def test_a_response_longer_than_the_models_context_is_refused_before_anything_is_trained(
    have, changes, key, response
):
    (have["base"].path / "config.json").write_text('{"max_position_embeddings": 512}')
    if key is None:
        assert validate.spec(recipe(), have)
        return
    message = (
        rf"{key} {response} and data.max_prompt_tokens 256 are {256 + response} tokens together,"
        r" the context of .*base is 512. "
        rf"Lower one of them by {response - 256} tokens"
    )
    with pytest.raises(BadInput, match=message):
        validate.spec(recipe(**changes), have)


def test_a_given_sft_models_context_counts_in_place_of_the_base_models(have):
    (have["base"].path / "config.json").write_text('{"max_position_embeddings": 512}')
    (have["sft"].path / "config.json").write_text('{"max_position_embeddings": 300}')
    with pytest.raises(BadInput, match=r"the context of .*sft is 300"):
        validate.spec(recipe(model={"base": "quickstart", "sft": str(have["sft"].path)}), have)


LLAMA = {
    "model_type": "llama",
    "vocab_size": 64,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}  # 2 layers * 2 * 32 numbers a token: 512 bytes in float32
CACHE = {
    "max_new_tokens": 5888,
    "kv_cache_mib": 3,
}  # with 256 tokens of prompt 6,144, and 3 MiB hold as many


@pytest.mark.parametrize("stage", ["ppo", "evaluate"])
def test_a_cache_that_cannot_hold_one_row_is_refused_before_anything_is_trained(have, stage):
    (have["base"].path / "config.json").write_text(json.dumps(LLAMA))
    assert validate.spec(recipe(**{stage: {"sampling": CACHE}}), have)
    longer = CACHE | {"max_new_tokens": 5889}
    message = (
        rf"{stage}.sampling.kv_cache_mib 3 holds 6144 tokens, but data.max_prompt_tokens 256 and "
        rf"{stage}.sampling.max_new_tokens 5889 are 6145; set it to at least 4"
    )
    with pytest.raises(BadInput, match=message):
        validate.spec(recipe(**{stage: {"sampling": longer}}), have)
    assert validate.spec(
        recipe(model={"base": "b", "dtype": "bfloat16"}, **{stage: {"sampling": longer}}), have
    )
    (have["base"].path / "config.json").write_text(
        json.dumps(LLAMA | {"model_type": "of another make"})
    )
    assert validate.spec(recipe(**{stage: {"sampling": longer}}), have)


def test_a_recipe_that_samples_with_vllm_is_refused_where_there_is_none(monkeypatch):
    require_samplers(recipe(), ["ppo", "evaluate"])
    monkeypatch.setattr(capacity, "find_spec", lambda name: None)
    require_samplers(recipe(), ["prepare", "validate", "sft", "reward"])
    plain = {"sampling": {"engine": "transformers"}}
    require_samplers(recipe(ppo=plain, evaluate=plain), ["ppo", "evaluate"])
    with pytest.raises(
        BadInput,
        match=r"evaluate\.sampling\.engine is 'vllm', which is not installed here.* 'transformers'",
    ):
        require_samplers(recipe(ppo=plain), ["ppo", "evaluate"])


def test_an_evaluation_of_sharded_models_runs_on_all_ranks(have):
    assert "ranks" not in evaluate.spec(recipe(distributed={"ranks": 2}), have).config
    assert (
        evaluate.spec(
            recipe(distributed={"ranks": 2}, evaluate={"frozen": "sharded"}), have
        ).config["ranks"]
        == 2
    )

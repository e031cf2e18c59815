"""Options that need something of the data or the model.

The validate stage refuses a recipe whose needs are not met, before anything is trained.
"""

import pytest
import torch
from benchmark_tasks import write_task
from transformers import (
    FalconConfig,
    FalconForCausalLM,
    Llama4TextConfig,
    MixtralConfig,
    MixtralForCausalLM,
)

from rlhf_core.config import LoRA, RewardFunction
from rlhf_core.config.stage_configs import Needs
from rlhf_core.errors import BadInput
from rlhf_core.preflight import needs_of, require

PROMPT = [{"role": "user", "content": "w1"}]
PLAIN = {
    "comparisons_train": [
        {"id": "1", "prompt": PROMPT, "chosen": "w1", "rejected": "w2", "meta": {}}
    ],
    "prompts_train": [{"id": "1", "prompt": PROMPT, "meta": {}}],
}
EXACT = RewardFunction(function="rules:exact", columns=["answer"])


def test_a_recipe_without_such_options_needs_nothing(recipe, tmp_path):
    assert (
        needs_of(recipe()) == Needs() and needs_of(recipe()).model_dump(exclude_defaults=True) == {}
    )
    require(Needs(), {}, tmp_path)


@pytest.mark.parametrize(
    ("settings", "needs"),
    [
        (["reward.margin_scale=0.5"], {"strength": True}),
        (["reward.smoothing_from_votes=true"], {"votes": True}),
        (["reward.margin_scale=0.5", "model.reward='given'"], {}),
        (["reward.margin_scale=0.5", "align='dpo'", "evaluate.independent_scorer='a:b'"], {}),
        (
            ["ppo.reward.functions=['a:b', {function='rules:exact', columns=['answer']}]"],
            {"functions": [EXACT]},
        ),
        (
            ["sft.lora={target_modules=['q_proj']}", "ppo.lora=true"],
            {"adapters": [LoRA(target_modules=("q_proj",))]},
        ),
        (["sft.lora={target_modules=['q_proj']}", "model.sft='given'"], {}),
        (["ppo.lora={target_modules=['query']}", "model.sft='of another make'"], {}),
        (["ppo.sampling.tensor_parallel=2", "distributed.ranks=2"], {"tensor_parallel": [2]}),
        (["ppo.lora={rank=4}", "ppo.sampling.adapter_sync=true"], {"adapter_sync": 4}),
        (["ppo.lora={rank=4}"], {}),
        (
            ["ppo.router_aux_loss_coef=0.01", "sft.router_aux_loss_coef=0"],
            {"router_aux_loss_coef": 0.01},
        ),
        (["reward.packing=true"], {"packing": True}),
        (
            ["reward.packing=true", "reward.share_prompts=true"],
            {"packing": True, "share_prompts": True, "sharing_router_coefs": [None]},
        ),
        (["dpo.packing=true"], {}),
        (["evaluate.packing=true"], {"packing": True}),
        (["evaluate.packing=true", "model.sft='given'"], {}),
        (["sft.packing=true", "model.sft='given'"], {}),
    ],
)
def test_needs_are_those_of_the_stages_that_run(recipe, settings, needs):
    assert needs_of(recipe(*settings)) == Needs(**needs)


@pytest.mark.parametrize(
    ("needs", "message"),
    [
        ({"strength": True}, "reward.margin_scale is set, but 1 of 1 comparisons have no strength"),
        (
            {"votes": True},
            "reward.smoothing_from_votes is set, but none of 1 comparisons has votes",
        ),
        (
            {"functions": [EXACT]},
            "'rules:exact' needs the column 'answer', which 1 of 1 prompts have not",
        ),
        (
            {"adapters": [LoRA(target_modules=("q_proj", "query"))]},
            (
                "lora.target_modules has 'query', which is no linear map of the backbone; expected"
                " one of down_proj, .*q_proj"
            ),
        ),
        (
            {"tensor_parallel": [2]},
            "sampling.tensor_parallel 2 does not divide the 1 attention heads",
        ),
        (
            {"router_aux_loss_coef": 0.01},
            "router_aux_loss_coef is 0.01, but LlamaForCausalLM has no experts",
        ),
    ],
)
def test_what_is_missing_is_refused_in_the_words_of_the_stage_that_would_have_missed_it(
    tiny_model, needs, message
):
    with pytest.raises(BadInput, match=message):
        require(Needs(**needs), PLAIN, tiny_model)


def test_packing_is_refused_for_attention_within_chunks_by_the_config_alone(tmp_path):
    Llama4TextConfig(attention_chunk_size=4, num_hidden_layers=1).save_pretrained(tmp_path)
    with pytest.raises(BadInput, match="attends within chunks of 4 tokens"):
        require(Needs(packing=True), {}, tmp_path)


def test_packing_is_refused_for_a_base_model_that_reads_over_the_borders_of_a_row(tmp_path):
    sizes = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 64}
    FalconForCausalLM(FalconConfig(**sizes)).save_pretrained(tmp_path)
    with pytest.raises(BadInput, match=rf"{tmp_path}: packing = true: .* over the border"):
        require(Needs(packing=True), {}, tmp_path)


@pytest.mark.parametrize(("coefficient", "own"), [(None, 0.001), (0.01, 0.0)])
def test_shared_prompts_are_refused_where_a_router_loss_would_learn(tmp_path, coefficient, own):
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 64}
    config = MixtralConfig(
        **sizes,
        intermediate_size=8,
        num_key_value_heads=1,
        num_local_experts=2,
        router_aux_loss_coef=own,
        experts_implementation="eager",
    )
    config.save_pretrained(tmp_path)
    needs = {"packing": True, "share_prompts": True}
    with pytest.raises(BadInput, match=r"share_prompts = true: Mixtral.* router_aux_loss_coef = 0"):
        require(Needs(**needs, sharing_router_coefs=(0.0, coefficient)), {}, tmp_path)
    torch.manual_seed(3)
    MixtralForCausalLM(config).save_pretrained(tmp_path)
    require(Needs(**needs, sharing_router_coefs=(0.0, None if own == 0 else 0.0)), {}, tmp_path)


def test_what_is_there_is_taken(tiny_model):
    given = {
        "comparisons_train": [
            PLAIN["comparisons_train"][0] | {"strength": 1.0, "votes_for": 2, "votes_against": 1}
        ],
        "prompts_train": [PLAIN["prompts_train"][0] | {"meta": {"answer": "w1"}}],
    }
    adapters = [LoRA(target_modules=("q_proj", "mlp.up_proj"))]
    require(
        Needs(strength=True, votes=True, functions=[EXACT], adapters=adapters, packing=True),
        given,
        tiny_model,
    )


def test_the_metrics_of_benchmarks_are_those_that_gates_and_the_contest_look_at(recipe):
    wins = "eval/benchmark/a/exact_match_win_rate_vs_champion"
    found = needs_of(
        recipe(
            'evaluate.benchmarks.tasks=["a", "b"]',
            "evaluate.gate.benchmarks.a={}",
            f'registry.contest.metric="{wins}"',
        )
    )
    assert found.benchmarks == {"a": ("acc", "exact_match"), "b": ()}


def test_a_benchmark_that_does_not_load_or_lacks_a_metric_is_refused(tmp_path):
    files = {"choose": write_task(tmp_path / "choose").parent / "**" / "*[!c]"}
    require(Needs(benchmarks={"choose": ("acc",)}), {}, tmp_path, files)
    with pytest.raises(BadInput, match=r"choose does not measure 'acc_norm', .* one of acc"):
        require(Needs(benchmarks={"choose": ("acc_norm",)}), {}, tmp_path, files)
    (tmp_path / "choose" / "items.jsonl").unlink()
    with pytest.raises(BadInput, match=r"the benchmark choose of .* cannot be loaded"):
        require(Needs(benchmarks={"choose": ()}), {}, tmp_path, files)

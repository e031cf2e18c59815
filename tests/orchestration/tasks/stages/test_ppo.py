"""The inputs of PPO: adapters and reward functions."""

import pytest
from recipes import prepared_recipe

from rlhf_core import stage_catalogue
from rlhf_core.config import load_recipe
from rlhf_core.errors import BadInput, ConfigError
from rlhf_core.rundir import StageResult
from rlhf_core.stage_catalogue import REWARD, SFT
from tasks.execution.continuation import same_work
from tasks.stages import ppo, sft
from tasks.stages.contract import check_paths, outputs_of, spec_of


def test_a_reward_adapter_goes_from_the_reward_stage_to_ppo_where_it_is_asked_for(have):
    made = StageResult(
        stage="reward",
        digest="d",
        seconds=1.0,
        outputs={"model": have["reward"], "adapter": have["base"]},
    )
    given = have | outputs_of(REWARD, prepared_recipe(), made)
    assert "reward_adapter" not in ppo.spec(prepared_recipe(), given).inputs
    shared = prepared_recipe(reward={"lora": True}, ppo={"reward_trunk": "reference"})
    assert ppo.spec(shared, given).inputs["reward_adapter"] == have["base"]
    assert "reward_adapter" not in outputs_of(
        REWARD, prepared_recipe(), made.model_copy(update={"outputs": {"model": have["reward"]}})
    )


@pytest.mark.parametrize("stage", [stage_catalogue.PPO, stage_catalogue.DPO])
def test_given_models_are_the_trained_ones_on_another_number_of_ranks(have, tmp_path, stage):
    """A stage that was stopped is found again with the finished models given by their folders."""
    other = {"align": stage.name, "evaluate": {"train_reward": True}}
    trained = prepared_recipe(**other, distributed={"ranks": 2})
    models = {"base": "quickstart", "sft": str(tmp_path / "sft")}
    if stage == stage_catalogue.PPO:
        models["reward"] = str(tmp_path / "reward")
    given = prepared_recipe(**other, model=models)
    brought = have | outputs_of(SFT, given, None)
    brought |= outputs_of(REWARD, given, None)
    before, now = (spec_of(stage, *one) for one in ((trained, have), (given, brought)))
    assert before and now and before.digest != now.digest
    assert same_work(before) == same_work(now)
    assert sft.spec(trained, have).config.ranks == 2  # so that SFT is trained again without it


def test_a_reward_function_is_part_of_ppo_by_its_source_and_makes_the_reward_model_optional(
    have, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "spec_rules.py").write_text(
        "def score(prompts, replies):\n    return [0.0] * len(replies)\n"
    )
    both = prepared_recipe(ppo={"reward": {"functions": ["spec_rules:score"]}})
    alone = prepared_recipe(ppo={"reward": {"functions": ["spec_rules:score"], "model_weight": 0}})
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
    asked = prepared_recipe(
        ppo={"reward": {"functions": [name]}}, model={"base": str(tmp_path / "base")}
    )
    if message is None:
        assert ppo.sources(asked.ppo.reward)
        return
    with pytest.raises(BadInput, match=rf"ppo\.reward\..*{message}"):
        check_paths(asked)


SCORER = "rlhf_core.quickstart.utility:score"


def test_the_scorer_of_evaluations_during_ppo_is_that_of_the_end_unless_it_has_its_own(have):
    own = prepared_recipe(ppo={"evaluation": {"scorer": SCORER}})
    shared = prepared_recipe(ppo={"evaluation": {}}, evaluate={"independent_scorer": SCORER})
    for recipe in (own, shared):
        spec = ppo.spec(recipe, have)
        assert spec.config.ppo.evaluation.scorer == SCORER
        assert spec.inputs["independent_scorer"].path.name == "utility.py"
    without = ppo.spec(prepared_recipe(ppo={"evaluation": {}}), have)
    assert "independent_scorer" not in without.inputs
    with pytest.raises(BadInput, match=r"ppo.evaluation.scorer is 'no_such_module:score'"):
        ppo.check(prepared_recipe(ppo={"evaluation": {"scorer": "no_such_module:score"}}))


@pytest.mark.parametrize("option", [{"keep": "best"}, {"patience": 2}])
def test_the_rewards_alone_choose_no_step(option):
    with pytest.raises(ConfigError, match="need a score that PPO does not raise"):
        load_recipe("smollm2", [f"ppo.evaluation={{{next(iter(option))}={_toml(option)}}}"])


def _toml(option: dict) -> str:
    (value,) = option.values()
    return f"'{value}'" if isinstance(value, str) else str(value)

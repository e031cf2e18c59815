"""Runs from Python: errors are the project's own, and a run that ended badly can be looked at."""

import pytest

from flows import api as rlhf


@pytest.mark.usefixtures("home")
@pytest.mark.parametrize(
    ("words", "says"),
    [
        ({"recipe": "nosuch"}, "no recipe 'nosuch'"),
        ({"settings": {"ppo.bta": 1}}, "ppo.bta"),
        ({"settings": {"ppo.steps": 0}}, "greater than 0"),
        ({"until": "training"}, "no step 'training'; expected one of prepare, validate"),
        ({"from_stage": "ppo", "until": "sft"}, "ppo comes after --until sft"),
    ],
)
def test_bad_input_raises_before_anything_runs(words, says):
    with pytest.raises(rlhf.ConfigError, match=says):
        rlhf.run(**{"recipe": "quickstart"} | words)


@pytest.mark.slow
def test_a_run_returns_itself_also_when_a_gate_refused(home, recipe_file, plan):
    plan(sft={"metrics": {"sft/heldout_improvement": -1.0}})
    with pytest.raises(rlhf.GateRefused) as raised:
        rlhf.run(recipe_file, {"description": "from Python"}, until="sft")
    assert raised.value.code == "RLHF-G001"
    run = rlhf.run(recipe_file, {"description": "from Python"}, until="sft", check=False)
    assert run.state == "refused" and run.error and run.stages == ["validate", "sft"]
    assert run.recipe["description"] == "from Python"
    assert [gate.verdict for gate in run.gates] == ["refused"]
    table = run.gate_table()
    assert list(table["verdict"]) == ["refused"] and table["value"][0] == -1.0
    assert "refused" in run._repr_html_() and run.explain("improvement")["run"] == run.name

"""The study of rounds against one round: its commands, and the differences within seeds."""

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest

from rlhf_core.config import load_recipe

PROGRAM = Path(__file__).resolve().parents[3] / "infra" / "studies" / "iterate.py"


@pytest.fixture(scope="module")
def program() -> ModuleType:
    spec = importlib.util.spec_from_file_location("iterate_study", PROGRAM)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def study(program, tmp_path):
    def make(align: str = "ppo"):
        return program.Study(tmp_path, align, 60, 3, 300, "random", ("ppo.steps=4",))

    return make


def write_arm(study, seed: int, arm: str, utilities: list[float | None]) -> None:
    rounds = [
        {
            "labels": {"pairs": 60 // (len(utilities) - 1)} if number else None,
            "metrics": {} if utility is None else {"eval/independent_policy": {"value": utility}},
            "policy": f"p{number}",
            "champion": "p1",
            "outcome": "refused" if utility is None else "promoted",
        }
        for number, utility in enumerate(utilities)
    ]
    file = study.file(seed, arm)
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps({"rounds": rounds}))


@pytest.mark.parametrize("align", ["ppo", "dpo"])
@pytest.mark.parametrize(("arm", "rounds", "pairs"), [("rounds", "3", "20"), ("once", "1", "60")])
def test_both_arms_spend_the_same_labels_on_recipes_that_load(study, align, arm, rounds, pairs):
    words = study(align).command(7, arm)
    assert words[words.index("--rounds") + 1] == rounds
    assert words[words.index("--labels") + 1] == pairs
    settings = [words[at + 1] for at, word in enumerate(words) if word == "--set"]
    recipe = load_recipe(words[2], settings)
    assert recipe.seed == 7 and recipe.registry.name == f"{words[2]}-{arm}"
    assert recipe.data.comparisons is not None and recipe.data.comparisons.limit == 300


def test_differences_are_taken_within_seeds_that_have_both_arms(program, study):
    write_arm(study(), 1, "rounds", [0.0, 1.0, 1.5, 2.0])
    write_arm(study(), 1, "once", [0.0, 1.0])
    write_arm(study(), 2, "rounds", [0.5, 1.0, 1.0, 1.0])
    assert program.finished_seeds(study()) == [1, 2]
    text = program.report(study(), [1, 2])
    assert "| rounds - once, last policy | +1.000 | - | 1 | 0 |" in text
    assert "| 1 | rounds | 60 | 0.000, 1.000, 1.500, 2.000 | 1.000 |" in text
    write_arm(study(), 2, "once", [0.5, 1.0])
    program.report(study(), [1, 2])
    found = json.loads((study().folder / "ppo.json").read_text())["differences"]
    last = found["rounds - once, last policy"]
    # differences 1 and 0: mean 0.5, Student's t of one degree of freedom is 12.706
    assert last["mean"] == 0.5 and last["high"] == pytest.approx(0.5 + 12.706 * 0.5, abs=1e-2)
    assert found["rounds - once, champion"]["mean"] == 0.0


def test_a_seed_whose_last_round_was_refused_is_left_out_and_counted(program, study):
    """Bug: it ended the study with a TypeError."""
    for seed, last in ((1, 2.0), (2, None)):
        write_arm(study(), seed, "rounds", [0.0, 1.0, 1.5, last])
        write_arm(study(), seed, "once", [0.0, 1.0])
    text = program.report(study(), [1, 2])
    assert "| rounds - once, last policy | +1.000 | - | 1 | 1 |" in text
    assert "| once - round 0 | +1.000 | +1.000 to +1.000 | 2 | 0 |" in text
    assert program.difference([(None, 1.0)])["mean"] is None


def test_arms_of_one_seed_have_spent_the_same_labels(program, study):
    write_arm(study(), 1, "rounds", [0.0, 1.0, 1.5, 2.0])
    write_arm(study(), 1, "once", [0.0, 1.0])
    file = study().file(1, "once")
    file.write_text(file.read_text().replace('"pairs": 60', '"pairs": 59'))
    with pytest.raises(SystemExit, match="seed 1 has 60 labels in rounds and 59 at once; expected"):
        program.report(study(), [1])


def test_a_folder_holds_arms_of_one_size(program, study):
    program.require_same_sizes(study())
    program.require_same_sizes(study())
    other = program.Study(study().folder, "ppo", 90, 3, 300, "random", ("ppo.steps=4",))
    with pytest.raises(SystemExit, match="Give another --folder"):
        program.require_same_sizes(other)

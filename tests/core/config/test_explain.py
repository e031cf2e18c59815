"""An error of a recipe says in one line which key is meant, what was found, and what to do."""

import pytest

from rlhf_core.config import RECIPES, load_recipe
from rlhf_core.errors import ConfigError

PLAIN = """name = "mine"
{top}
[model]
base = "quickstart"
[data]
demonstrations = "d.jsonl"
comparisons = "c.jsonl"
[registry]
name = "mine"
{more}
"""


@pytest.fixture
def refused(tmp_path):
    """Return a function that gives the message about a recipe."""

    def message(more: str = "", top: str = "", text: str = PLAIN, settings: tuple = ()) -> str:
        path = tmp_path / "mine.toml"
        path.write_text(text.format(top=top, more=more))
        with pytest.raises(ConfigError) as error:
            load_recipe(str(path), settings)
        return str(error.value)

    return message


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ("[ppo]\nbata = 0.1", "ppo.bata: there is no such key; did you mean beta?"),
        ("[ppo]\nlearning_rate = 1e-5", "did you mean policy_lr?"),
        ("[sft]\nlearning_rate = 1e-5", "did you mean lr?"),
        ("[evaluate]\ntemperature = 1.0", "did you mean sampling.temperature?"),
        ("[sft]\nbeta = 0.1", "sft.beta: there is no such key"),
    ],
)
def test_an_unknown_key_is_answered_from_its_own_section(refused, more, says):
    assert refused(more).endswith(says)


def test_a_key_above_all_sections_is_answered_with_whole_keys(refused):
    assert refused(top="lr = 1e-5").endswith("did you mean sft.lr, reward.lr, dpo.lr or kto.lr?")
    assert refused(top="alin = 'ppo'").endswith("did you mean align?")


def test_a_refused_value_of_a_named_gate_is_answered_with_its_meaning(refused):
    gate = "[gates.mine]\nstage='sft'\nmetric='sft/heldout_loss'\nbound='at most'\nthreshold=1\n"
    message = refused(f"{gate}confidence = 95")
    assert "gates.mine.confidence: " in message and "(found 95). It is: " in message
    assert "; default 0.95" in message


def test_a_missing_key_is_named_with_what_to_add(refused):
    text = PLAIN.replace('[registry]\nname = "mine"', "").replace('base = "quickstart"', "")
    message = refused(text=text)
    assert "registry is missing; add [registry] with name = ..." in message
    assert "model.base is missing; add base = ... to [model]. It is: Base model" in message
    assert "Field required" not in message and "d.jsonl" not in message


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ("[sft]\nbatch_size = true", "sft.batch_size: expected an integer (found true)"),
        ('[sft]\nbatch_size = "32"', 'sft.batch_size: expected an integer (found "32")'),
        ('[sft]\nlr = "1e-5"', 'sft.lr: expected a number (found "1e-5")'),
        ('[sft]\npacking = "yes"', 'sft.packing: expected true or false (found "yes")'),
        ("[sft]\npacking = 1", "sft.packing: expected true or false (found 1)"),
        ("[sft.lora]\nrank = true", "sft.lora.rank: expected an integer (found true)"),
        (
            '[gates.mine]\nstage="sft"\nmetric="sft/heldout_loss"\nbound="at most"\nthreshold="1"',
            'gates.mine.threshold: expected a number (found "1")',
        ),
        (
            '[[ppo.reward.functions]]\nfunction = "a:b"\nweight = "2"',
            'ppo.reward.functions.0.weight: expected a number (found "2")',
        ),
    ],
)
def test_a_value_of_another_type_is_refused(refused, more, says):
    message = refused(more)
    assert f"{says}. It is: " in message and message.count("\n") == 1


def test_settings_are_parsed_as_before_and_whole_numbers_are_taken(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(PLAIN.format(top="", more="[ppo]\nbeta = 0\n[sft]\nlora = true"))
    recipe = load_recipe(str(path), ("sft.packing=yes", "sft.batch_size='16'"))
    assert recipe.sft.packing is True and recipe.sft.batch_size == 16 and recipe.ppo.beta == 0


@pytest.mark.parametrize("name", sorted(path.stem for path in RECIPES.glob("*.toml")))
def test_every_recipe_of_the_project_has_its_types(name):
    assert load_recipe(name).name


def test_a_recipe_that_is_not_utf8_is_answered_with_the_line_and_the_remedy(tmp_path):
    path = tmp_path / "latin.toml"
    path.write_bytes('name = "mine"\ndescription = "größer"\n'.encode("latin-1"))
    with pytest.raises(ConfigError, match=r"line 2 is not UTF-8 \(byte 0xf6\).*iconv"):
        load_recipe(str(path))


def test_a_key_given_twice_is_named(refused):
    message = refused("[sft]\nlr = 1e-5\nlr = 2e-5 # once more")
    assert "a key is given twice (at line 12); remove one of the two. The line is: lr = 2e-5" in (
        message
    )

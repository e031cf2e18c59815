"""A recipe that extends another is that recipe with its own values on top."""

import pytest

from rlhf_core.config import load_recipe, read_recipe
from rlhf_core.errors import ConfigError

OWN = 'name = "team"\nregistry.name = "team"\n'


@pytest.fixture
def write(tmp_path):
    """Write a recipe's file below tmp_path; return its path as text."""

    def written(name: str, text: str) -> str:
        file = tmp_path / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)
        return str(file)

    return written


def test_tables_are_merged_key_by_key_and_other_values_replaced(write):
    file = write(
        "a.toml", f'extends = "quickstart"\n{OWN}[ppo]\nbeta = 0.2\nsampling.temperature = 0.9\n'
    )
    quickstart, found = load_recipe("quickstart"), load_recipe(file)
    assert (found.ppo.beta, found.ppo.sampling.temperature) == (0.2, 0.9)
    assert found.ppo.sampling.max_new_tokens == quickstart.ppo.sampling.max_new_tokens
    assert found.ppo.steps == quickstart.ppo.steps and found.data == quickstart.data


def test_only_the_resolved_values_decide_a_recipe(write):
    base = f'{OWN}model.base = "b"\ndata = {{demonstrations = "d", comparisons = "c"}}\n'
    write("base.toml", base)
    child = write("child.toml", f'extends = "base.toml"\n{OWN}ppo.beta = 0.2\n')
    alone = write("alone.toml", f"{base}ppo.beta = 0.2\n")
    assert load_recipe(child) == load_recipe(alone)
    assert load_recipe(child).model_dump_json() == load_recipe(alone).model_dump_json()


def test_a_relative_path_begins_in_the_folder_of_the_file_that_names_it(
    write, monkeypatch, tmp_path
):
    write(
        "shared/base.toml",
        'extends = "quickstart"\nname = "base"\nregistry.name = "base"\nseed = 7\n',
    )
    file = write("team/recipe.toml", f'extends = "../shared/base.toml"\n{OWN}')
    monkeypatch.chdir(tmp_path.parent)
    source = read_recipe(file)
    assert load_recipe(file).seed == 7
    assert [each.path.name for each in source.files] == [
        "recipe.toml",
        "base.toml",
        "quickstart.toml",
    ]
    assert source.files[0].toml.startswith("extends") and len(source.files[0].digest) == 64
    assert source.origin(("seed",)).name == "base.toml"
    assert source.origin(("ppo", "steps")).name == "quickstart.toml"
    assert source.origin(("name",)).name == "recipe.toml"


@pytest.mark.parametrize("key", ["name", "registry.name"])
def test_the_names_of_a_recipe_are_not_inherited(write, key):
    own = "\n".join(line for line in OWN.splitlines() if not line.startswith(f"{key} "))
    file = write("a.toml", f'extends = "quickstart"\n{own}\n')
    with pytest.raises(ConfigError, match=f"{key.replace('.', '[.]')} is missing"):
        load_recipe(file)


def test_a_table_with_a_path_replaces_the_source_and_one_without_changes_it(write):
    write(
        "base.toml",
        f'{OWN}model.base = "b"\n[data]\ncomparisons = "c"\n'
        'demonstrations = {path = "d.csv", columns = {prompt = "question"}}\n',
    )
    head = f'extends = "base.toml"\n{OWN}'
    changed = write("a.toml", f"{head}data.demonstrations.limit = 3\ndata.comparisons.limit = 5\n")
    found = load_recipe(changed).data
    assert (found.demonstrations.path, found.demonstrations.limit) == ("d.csv", 3)
    assert found.demonstrations.columns == {"prompt": "question"}
    assert (found.comparisons.path, found.comparisons.limit) == ("c", 5)
    other = write("b.toml", f'{head}data.demonstrations = {{path = "e.csv"}}\n')
    assert load_recipe(other).data.demonstrations.columns == {}


def test_unset_removes_an_inherited_key(write):
    head = f'extends = "quickstart"\n{OWN}'
    file = write("a.toml", f'unset = ["data.prompts_heldout", "gates.true_utility"]\n{head}')
    found = load_recipe(file)
    assert found.data.prompts_heldout is None and found.gates == {}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            'extends = "quickstrat"\n',
            r"extends 'quickstrat', and there is no such recipe; .*quickstart",
        ),
        ('extends = "none.toml"\n', r"extends 'none\.toml', .* path of a \.toml file from "),
        ("extends = 3\n", "extends is 3; expected the name of a recipe"),
        ('extends = ""\n', "extends is ''; expected the name"),
        ('extends = "a.toml"\n', r"a\.toml extends .*a\.toml: a recipe cannot extend itself"),
        ('extends = "quickstart"\nunset = "data"\n', "unset is 'data'; expected a list of keys"),
        ('unset = ["data.prompts"]\n', "there is no extends"),
        (
            'extends = "quickstart"\nunset = ["data.promts"]\n',
            r"unset has 'data\.promts', which the recipe that it extends does not set",
        ),
    ],
)
def test_what_cannot_be_extended_is_refused_with_what_was_expected(write, text, says):
    with pytest.raises(ConfigError, match=says):
        load_recipe(write("a.toml", text + OWN))


def test_a_circle_of_recipes_is_refused_with_the_whole_chain(write):
    for name, other in (("a", "b"), ("b", "c"), ("c", "a")):
        write(f"{name}.toml", f'extends = "{other}.toml"\n{OWN}')
    with pytest.raises(
        ConfigError,
        match=r"a\.toml extends .*b\.toml extends .*c\.toml extends .*a\.toml: a recipe",
    ):
        load_recipe(write("a.toml", f'extends = "b.toml"\n{OWN}'))


def test_a_bad_value_names_the_file_that_it_is_in(write):
    write("base.toml", 'extends = "quickstart"\nname = "base"\nppo.beta = -1\n')
    file = write("a.toml", f'extends = "base.toml"\n{OWN}sft.epochs = "two"\n')
    with pytest.raises(ConfigError) as refused:
        load_recipe(file)
    lines = str(refused.value).splitlines()
    (beta,) = [line for line in lines if line.strip().startswith("ppo.beta")]
    (epochs,) = [line for line in lines if line.strip().startswith("sft.epochs")]
    assert beta.endswith("base.toml)") and epochs.endswith("a.toml)")
    with pytest.raises(ConfigError) as refused:
        load_recipe(file, ["ppo.beta=-2", "sft.epochs=2"])
    assert "(set in" not in str(refused.value)

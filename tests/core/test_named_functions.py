"""A function is found by 'module:function', or by the name under which a package offers it."""

import sys

import pytest
from offering_package import install

from rlhf_core.errors import BadInput
from rlhf_core.named_functions import JUDGES, REWARDS, load_function, module_and_function

SOURCE = "def score(prompts, replies):\n    return [1.0] * len(replies)\n"


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Writes a module `my_scorers` that can be imported in this test."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "my_scorers", raising=False)
    return lambda source: (tmp_path / "my_scorers.py").write_text(source)


@pytest.mark.parametrize(
    "name",
    ["my_scorers", "my_scorers:", "my_scorers:missing", "no_such_module:score", ":score", ""],
)
def test_a_name_that_is_no_function_is_refused_by_name(module, name):
    module("def score(prompts, replies):\n    return [0.0] * len(replies)\n")
    with pytest.raises(
        BadInput, match=rf"scorer '{name}' cannot be imported .*expected 'module:function'"
    ):
        load_function(name, "scorer")


def test_a_module_that_crashes_while_it_is_imported_is_refused(module):
    module("1 / 0")
    with pytest.raises(BadInput, match="division by zero"):
        load_function("my_scorers:score", "scorer")


def test_a_name_of_something_else_than_a_function_is_refused(module):
    module("score = 3")
    with pytest.raises(BadInput, match="is a int; expected a function"):
        load_function("my_scorers:score", "scorer")


# names that installed packages offer


def test_a_name_that_a_package_offers_gives_its_function(tmp_path, monkeypatch):
    install(tmp_path, monkeypatch, "team-rules", {REWARDS: {"polite": "team_rules:score"}}, SOURCE)
    assert load_function("polite", "reward function", REWARDS)(["p"], ["r"]) == [1.0]
    assert module_and_function("x", "polite", REWARDS) == "team_rules:score"
    assert module_and_function("x", "a.b:c", REWARDS) == "a.b:c"


def test_a_name_that_nobody_offers_is_refused_with_those_that_are(tmp_path, monkeypatch):
    install(tmp_path, monkeypatch, "team-rules", {REWARDS: {"polite": "team_rules:score"}}, SOURCE)
    with pytest.raises(
        BadInput,
        match=r"the reward function 'rude': no installed package offers .*rlhf\.rewards:.*polite",
    ):
        load_function("rude", "reward function", REWARDS)
    with pytest.raises(BadInput, match=r"the judge 'polite': .*rlhf\.judges: none are installed"):
        load_function("polite", "judge", JUDGES)


def test_a_name_that_two_packages_offer_is_refused_with_both(tmp_path, monkeypatch):
    for name in ("team-a", "team-b"):
        offered = {REWARDS: {"polite": f"{name.replace('-', '_')}:score"}}
        install(tmp_path, monkeypatch, name, offered, SOURCE)
    with pytest.raises(
        BadInput, match=r"several packages offer this name .*team-a \(team_a:score\) and team-b"
    ):
        module_and_function("the reward function 'polite'", "polite", REWARDS)


def test_an_offer_that_is_no_function_of_a_module_is_refused(tmp_path, monkeypatch):
    install(tmp_path, monkeypatch, "team-rules", {REWARDS: {"polite": "team_rules"}}, SOURCE)
    with pytest.raises(BadInput, match=r"team-rules offers it as 'team_rules'.*module:function"):
        module_and_function("the reward function 'polite'", "polite", REWARDS)

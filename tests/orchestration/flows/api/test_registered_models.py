"""Promotion, rollback and history from Python say what the commands say."""

import json

import pytest

from flows import api as rlhf

pytestmark = pytest.mark.usefixtures("registrar")


@pytest.fixture
def command_line(rlhf):
    return rlhf


@pytest.mark.slow
def test_a_promotion_and_a_rollback_are_those_of_the_commands(command_line):
    models = rlhf.registry("tiny")
    assert models.champion.version == "1"
    made = models.promote(2, reason="better  [1]", expect_current=1)
    assert made.promoted and made.replaced == "1" and "it wins 70.0%" in made.reason
    assert models.champion.version == "2"
    assert models.rollback().version == "1"
    entries = models.history().entries
    assert [(entry.action, entry.version, entry.reason) for entry in entries[1:]] == [
        ("promote", "2", "better [1]"),
        ("rollback", "1", ""),
    ]
    printed = json.loads(command_line("history", "tiny", "--json")[1])
    assert [entry["number"] for entry in printed["entries"]] == [1, 2, 3]
    frame = models.versions()
    assert list(frame["version"]) == [5, 4, 3, 2, 1]
    assert "champion" in frame.set_index("version").loc[1, "aliases"]


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda: rlhf.registry("tiny").promote(5), rlhf.PromotionRefused, "it wins 40.0%"),
        (lambda: rlhf.registry("tiny").promote(99), rlhf.BadInput, "99 .* does not exist"),
        (lambda: rlhf.registry("other").promote(1), rlhf.BadInput, "no registered model other-p"),
        (lambda: rlhf.registry("other").history(), rlhf.BadInput, "no registered model other-p"),
        (lambda: rlhf.registry("A B").champion, rlhf.BadInput, "is no registry name"),
        (lambda: rlhf.registry("tiny").rollback(adopt=True), rlhf.BadInput, "--adopt needs"),
        (
            lambda: rlhf.registry("tiny").promote(2, approved_by="Ann"),
            rlhf.BadInput,
            "--comment is missing",
        ),
        (
            lambda: rlhf.registry("tiny-reward").promote(1, override_contest="none"),
            rlhf.BadInput,
            "fights no contest",
        ),
    ],
)
def test_a_refusal_is_an_error_of_the_project_and_changes_nothing(call, error, says, registry):
    before = registry.aliases()
    with pytest.raises(error, match=says):
        call()
    assert registry.aliases() == before


def test_a_name_without_a_ledger_has_no_champion():
    assert rlhf.registry("other").champion is None

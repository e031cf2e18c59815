"""`rlhf heldout`: the contests on held-out prompts, and fresh ones, by real validations."""

import json

import pytest
from held_out import make_champion, record_contest

from rlhf_core.data.splits import load_split, prompt_keys
from rlhf_core.rundir import Artifact, StageSpec, read_result
from tasks.records.workspace import Workspace
from tasks.tracking.client import connect

FOLDED = ("--set", "data.heldout_folds=3")


def validated(home) -> tuple[dict[str, Artifact], StageSpec]:
    """Return the splits of the workspace's latest validation, and its spec."""
    folder = max((home / "runs").glob("validate-*"), key=lambda path: path.stat().st_mtime_ns)
    result = read_result(folder)
    assert result is not None
    return result.outputs, StageSpec.model_validate_json((folder / "spec.json").read_text())


def of(home):
    """Return the workspace's MLflow client."""
    return connect(Workspace(home).tracking_uri)


@pytest.mark.slow
def test_show_counts_the_contests_and_says_what_the_next_one_gets(rlhf, real_recipe, home):
    code, out, err = rlhf("heldout", "show", real_recipe)
    assert code == 0, err
    assert "Contests on them so far: 0, which spent 0% of their error budget" in out
    assert "The next one has the level 0.022" in out
    splits, _ = validated(home)
    for number in (1, 2):
        record_contest(of(home), number, splits["prompts_heldout"])
    code, out, _ = rlhf("heldout", "show", real_recipe, "--json")
    present = json.loads(out)["present"]
    assert code == 0 and present["contests"] == 2
    assert present["spent"] == pytest.approx(0.582, abs=1e-3)
    assert present["digest"] == splits["prompts_heldout"].digest


@pytest.mark.slow
def test_rotate_offers_a_fold_that_no_contest_and_no_champion_has_seen(rlhf, real_recipe, home):
    assert rlhf("validate", real_recipe, *FOLDED)[0] == 0
    first, _ = validated(home)
    make_champion(of(home), Workspace(home), first["prompts_train"])
    record_contest(of(home), 1, first["prompts_heldout"])
    code, out, err = rlhf("heldout", "rotate", real_recipe, *FOLDED)
    assert code == 0, err
    assert "fold 1 of 3" in out and "Contests on them so far: 1" in out
    assert "No contest has looked at them, and no champion was trained on one of them." in out
    assert "Set data.heldout_fold = 2 in the recipe" in out
    second, spec = validated(home)
    assert spec.config["data"]["heldout_fold"] == 2
    before, after = (
        {name: prompt_keys(load_split(item.path)) for name, item in splits.items()}
        for splits in (first, second)
    )
    assert not before["prompts_heldout"] & after["prompts_heldout"]
    assert not before["prompts_train"] & after["prompts_heldout"]
    assert after["prompts_train"] == before["prompts_train"] | before["prompts_heldout"]


@pytest.mark.slow
def test_rotate_refuses_a_fold_that_the_champion_was_trained_on(rlhf, real_recipe, home):
    """It was trained before folds were set aside."""
    assert rlhf("heldout", "show", real_recipe)[0] == 0
    make_champion(of(home), Workspace(home), validated(home)[0]["prompts_train"])
    code, out, err = rlhf("heldout", "rotate", real_recipe, *FOLDED)
    assert code == 2 and out == ""
    assert "the prompts of fold 2 are not fresh" in err
    assert "are training prompts of tiny-policy 1" in err and "new rows" in err


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ((), "data.heldout_folds of tiny is 1, and fold 1 is in use"),
        ((*FOLDED, "--set", "data.heldout_fold=3"), "is 3, and fold 3 is in use"),
        (("--set", "data.prompts_heldout={folder}/p.jsonl"), "are those of"),
    ],
)
def test_rotate_says_at_once_where_nothing_was_set_aside(rlhf, real_recipe, home, settings, said):
    (real_recipe.parent / "p.jsonl").write_text('{"prompt": "w1"}\n')
    words = [text.format(folder=real_recipe.parent) for text in settings]
    code, out, err = rlhf("heldout", "rotate", real_recipe, *words)
    assert code == 2 and out == "" and said in err and "new rows" in err
    assert not (home / "runs").exists()

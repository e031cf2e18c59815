"""`rlhf iterate` refuses bad requests before anything runs."""

from pathlib import Path

import pytest

from flows.iterate.plan import ANNOTATORS, IterationOptions, make_plan
from rlhf_core.errors import BadInput

DPO = ["align=dpo", "evaluate.independent_scorer=rlhf_core.quickstart.utility:score"]
LABEL = "rlhf_core.quickstart.annotators:label"


def options(**changes) -> IterationOptions:
    values = {"rounds": 2, "pairs": 10, "sources": ("onpolicy",), "pick": "random"}
    return IterationOptions(**values | {"by": ANNOTATORS} | changes)


@pytest.mark.parametrize(
    ("settings", "changes", "says"),
    [
        ([], {"by": None}, "nobody labels for recipe tiny: it has no evaluate.judge"),
        ([], {"by": "judge"}, "--by judge asks for evaluate.judge, which recipe tiny does not"),
        ([], {"by": "simulated"}, "know the quickstart's language alone, and model.base of recipe"),
        ([], {"by": "ann"}, "--by is 'ann'; expected judge, simulated or MODULE:FUNCTION"),
        ([], {"by": "absent_module:votes"}, "--by is 'absent_module:votes': no such module"),
        ([], {"by": f"{ANNOTATORS}_s"}, "has no 'votes_s'; it defines"),
        (DPO, {"pick": "uncertain"}, "--pick uncertain goes by a reward model: recipe tiny has"),
        (DPO, {"sources": ("mistakes",)}, "--from mistakes goes by a reward model"),
        (DPO, {"continue_reward": True}, "--continue-reward: recipe tiny trains no reward model"),
        (DPO, {"sources": ("contested",)}, "--from contested needs two raters that can differ"),
        ([], {"pick": "disagreement"}, "--pick disagreement needs two raters .* has 1; expected"),
        (["reward.margin_scale=0.1"], {}, "reward.margin_scale of recipe tiny is 0.1, which needs"),
        (
            ["reward.gate.min_new_accuracy=0.6"],
            {},
            r"\(new_pairs\) needs 20 held-out .* 20 labels in all give about 2 .*ected 200 labels",
        ),
        (["data.comparisons=absent.jsonl"], {}, "data.comparisons is 'absent.jsonl': no file"),
    ],
)
def test_bad_requests_are_refused_with_one_message(recipe_file, home, settings, changes, says):
    with pytest.raises(BadInput, match=says):
        make_plan(str(recipe_file), settings, options(**changes))
    assert not (home / "runs").exists()


def test_a_given_reward_model_learns_nothing_from_labels(recipe_file, ready_models):
    given = f"model.reward={ready_models / 'reward'}"
    with pytest.raises(BadInput, match=r"not train the policy .* model.reward is .* a given"):
        make_plan(str(recipe_file), [given], options())


def test_labels_that_would_not_train_the_policy_are_refused(recipe_file, data_files):
    """Bug: rounds were made of labels that no stage read."""
    (data_files / "f.jsonl").write_text('{"prompt": "p", "response": "r", "label": true}\n')
    feedback = f"data.feedback={data_files / 'f.jsonl'}"
    ppo, kto = "reward.feedback.learn_from='feedback'", "kto.learn_from='feedback'"
    for settings in ([ppo], [DPO[1], "align=kto", kto]):
        says = f"would not train the policy of recipe tiny: {settings[-1].replace('=', ' is ')}"
        with pytest.raises(BadInput, match=says):
            make_plan(str(recipe_file), [feedback, *settings], options())


def test_the_command_refuses_with_exit_code_2(rlhf, recipe_file):
    for words, says in (
        (["absent"], "no recipe 'absent'"),
        ([recipe_file, "--rounds", "0"], "greater than or equal to 1"),
        ([recipe_file, "--labels", "0"], "greater than or equal to 1"),
        ([recipe_file, "--from", "nowhere"], "--from is 'nowhere'; expected some of onpolicy"),
        ([recipe_file], "nobody labels for recipe tiny"),
    ):
        code, out, err = rlhf("iterate", *words)
        assert code == 2 and not out and says in " ".join(err.split()), err


def test_raters_are_counted_by_source(recipe_file):
    judge = [f"evaluate.judge.function={LABEL}"]
    for settings, changes in (
        (["reward.ensemble=2"], {"pick": "disagreement"}),
        ([], {"sources": ("contested",)}),  # the reward model, and people on training pairs
        (judge, {"sources": ("contested",), "pick": "disagreement"}),
        ([], {"sources": ("mistakes",), "pick": "disagreement"}),
    ):
        make_plan(str(recipe_file), settings, options(**changes))
    assert make_plan(str(recipe_file), judge, options(by=None)).iteration.request.by == "judge"


def test_a_gate_on_drift_has_the_champions_reward_model_in_each_further_round(recipe_file):
    drift = 'stage="reward", metric="reward/accuracy_new_before", bound="at least", threshold=0.5'
    for more in ({}, {"continue_reward": True}):
        make_plan(str(recipe_file), [f"gates.drift={{{drift}}}"], options(**more))
        with pytest.raises(BadInput, match="needs min_n 2001 items of reward/accuracy_new_before"):
            make_plan(str(recipe_file), [f"gates.drift={{{drift}, min_n=2001}}"], options(**more))


def test_a_loop_is_known_by_recipe_labels_and_data_and_not_by_its_length(recipe_file, data_files):
    def identity(settings=(), **changes) -> str:
        return make_plan(str(recipe_file), list(settings), options(**changes)).iteration.id

    first = identity()
    assert identity() == first == identity(rounds=5)
    others = [identity(["seed=2"]), identity(pairs=11), identity(pick="diverse")]
    (data_files / "c.jsonl").write_text('{"prompt": "q"}\n')
    assert len({first, *others, identity()}) == 5


def test_another_source_of_a_labeller_or_other_own_new_comparisons_are_another_loop(
    recipe_file, data_files, tmp_path, monkeypatch
):
    """Bug: an edited function, or other new comparisons of the hub, went on with the same loop."""
    monkeypatch.chdir(tmp_path)
    own = Path("my_labels.py")
    hub = 'data.new_comparisons=[{{path = "org/{}", format = "hub"{}}}]'

    def identity(*settings: str, by: str = ANNOTATORS) -> str:
        return make_plan(str(recipe_file), list(settings), options(by=by)).iteration.id

    judged = "evaluate.judge.function=my_labels:label"
    found = []
    for body in ("return []", "return None"):
        own.write_text(f"def votes(*given): {body}\ndef label(*given): {body}\n")
        found += [identity(by="my_labels:votes"), identity(judged, by="judge")]
    found += [identity(hub.format("a", ", limit = 5")), identity(hub.format("b", ""))]
    assert len({*found, identity()}) == 7


def test_the_quickstart_is_labelled_by_its_annotators(home):
    plan = make_plan("quickstart", [], options(by=None))
    assert plan.iteration.request.by == ANNOTATORS
    assert plan.iteration.name.startswith("quickstart-iterate-")

"""Wrong arguments from Python are refused at once, with an error of the project."""

import pytest

from flows import api as rlhf


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: rlhf.open_run(None), "the run's name is None; expected a text"),
        (lambda: rlhf.lineage(7), "the reference is 7; expected a text"),
        (lambda: rlhf.explain(None), "the code is None"),
        (lambda: rlhf.compare("latest", 5), "a run to compare is 5"),
        (lambda: rlhf.sweep("quickstart", {}), "a sweep over no key"),
        (lambda: rlhf.sweep("quickstart", {"seed": 1}), "seed has 1; expected a list of values"),
        (lambda: rlhf.sweep("quickstart", {"seed": "12"}), "seed has '12'; expected a list"),
        (lambda: rlhf.sweep("quickstart", {"seed": [1]}, job=2), "no option 'job'; expected one"),
        (lambda: rlhf.leaderboard(order="up"), "order is 'up'; expected one of highest, lowest"),
        (lambda: rlhf.open_campaign("w", "latest", "ann"), "annotators is 'ann'; expected a list"),
        (lambda: rlhf.open_campaign("w", "latest", ["ann"], pick="best"), "pick is 'best'"),
        (lambda: rlhf.open_campaign("w", "latest", ["ann"], pair=3), "there is no option 'pair'"),
        (lambda: rlhf.run(None), "the recipe is None; expected a text or a path"),
        (lambda: rlhf.run("quickstart", [1]), "a setting of the list is 1; expected a text"),
        (lambda: rlhf.sweep(b"quickstart", {"seed": [1]}), "the recipe is b'quickstart'; expected"),
        (lambda: rlhf.sweep("quickstart", [1]), "over is [1]; expected keys with lists of values"),
        (lambda: rlhf.sweep("quickstart", {"seed": [1]}, jobs="2"), "jobs is '2'; expected a pos"),
        (lambda: rlhf.compare(None, 3), "a run to compare is None; expected a run or its name"),
        (lambda: rlhf.remove_runs(3), "a run to remove is 3; expected a run or its name"),
        (lambda: rlhf.runs(3), "the pattern is 3; expected a text"),
        (lambda: rlhf.cost(3), "a filter is 3; expected a text"),
        (lambda: rlhf.leaderboard(metric=3), "metric is 3; expected a text"),
        (lambda: rlhf.campaign(None), "the campaign's name is None; expected a text"),
        (lambda: rlhf.open_campaign("w", None, ["ann"]), "the run is None; expected a run or its"),
        (lambda: rlhf.open_campaign("w", "latest", 3), "annotators is 3; expected a list"),
        (lambda: rlhf.import_labels(None, "out"), "the file is None; expected a text or a path"),
        (lambda: rlhf.registry(None), "the registry's name is None; expected a text"),
        (lambda: rlhf.registry("tiny").promote(1, reasons="x"), "there is no option 'reasons'"),
    ],
)
def test_a_wrong_argument_is_refused(home, call, says):
    with pytest.raises(rlhf.BadInput) as refused:
        call()
    assert says in str(refused.value)
    assert not (home / "runs").exists()

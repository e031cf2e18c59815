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
        (lambda: rlhf.registry("tiny").promote(1, reasons="x"), "there is no option 'reasons'"),
    ],
)
def test_a_wrong_argument_is_refused(home, call, says):
    with pytest.raises(rlhf.BadInput) as refused:
        call()
    assert says in str(refused.value)
    assert not (home / "runs").exists()

"""A sweep from Python asks for the grid that the command asks for."""

import pytest

from flows import api as rlhf


@pytest.mark.usefixtures("home")
@pytest.mark.parametrize(
    ("over", "options", "says"),
    [
        ({"ppo.beta": [0.1, -1]}, {}, "ppo.beta=-1: recipe quickstart is not valid"),
        ({"ppo.beta": [0.1, 0.1]}, {}, "ppo.beta=0.1 is given twice"),
        ({"ppo.beta": [0.1, 0.2]}, {"until": "train"}, "no stage 'train'; expected one of"),
        ({"ppo.beta": [0.1, 0.2], "seed": [1, 2]}, {"max_runs": 3}, "that is 4 runs"),
        ({"ppo.beta": [0.1, 0.2]}, {"metrics": ["eval/nosuch"]}, "no such metric"),
    ],
)
def test_a_grid_that_cannot_be_run_is_one_error(over, options, says):
    with pytest.raises(rlhf.ConfigError, match=says):
        rlhf.sweep("quickstart", over, **options)

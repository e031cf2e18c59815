"""A judge that does not answer is found before anything is trained."""

import socket

import pytest

from rlhf_core.config import Recipe
from rlhf_core.errors import StageFailed
from tasks.stages.judges import require_judges


@pytest.fixture
def away() -> dict:
    """A judge at a port where nothing listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/v1"
    return {"endpoint": url, "model": "m", "retries": 0}


def recipe(**sections) -> Recipe:
    required = {"name": "n", "model": {"base": "b"}, "registry": {"name": "n"}}
    return Recipe(data={"demonstrations": "d", "comparisons": "c"}, **required | sections)


def test_a_judge_that_is_away_is_named_by_its_key(away):
    with pytest.raises(StageFailed, match=r"^evaluate\.judge, asked before .* ConnectError"):
        require_judges(recipe(evaluate={"judge": away}), lambda stage: True)
    check = {"judge": away, "every": 1, "pairs": 4}
    with pytest.raises(StageFailed, match=r"correct ppo\.reward_check\.judge\.endpoint"):
        require_judges(recipe(ppo={"reward_check": check}), lambda stage: True)


def test_a_judge_of_a_stage_that_is_not_wanted_is_not_asked(away):
    require_judges(recipe(evaluate={"judge": away}), lambda stage: stage != "evaluate")
    require_judges(recipe(), lambda stage: True)

"""VADER as the film recipe's independent scorer."""

from rlhf_core.film.sentiment import compound


def test_praise_scores_above_blame_and_nothing_scores_zero():
    praise, blame, nothing = compound(
        [""] * 3, ["A superb and moving film.", "A dull, horrible mess.", ""]
    )
    assert -1 <= blame < -0.5 < nothing == 0.0 < 0.5 < praise <= 1

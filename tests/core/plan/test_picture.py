"""The picture of a plan."""

import pytest
from stage_plans import planned

from rlhf_core.errors import ConfigError
from rlhf_core.plan.layout import MODEL_STAGES
from rlhf_core.plan.picture import draw_plans


@pytest.mark.parametrize("ending", [".svg", ".png"])
def test_the_picture_is_written(tmp_path, ending):
    file = tmp_path / f"plan{ending}"
    draw_plans([planned("7b", stage) for stage in MODEL_STAGES], file)
    assert file.read_bytes().startswith({".svg": b"<?xml", ".png": b"\x89PNG"}[ending])


def test_a_picture_of_another_kind_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"\.svg or \.png"):
        draw_plans([planned("7b", "sft")], tmp_path / "plan.pdf")

"""When the base model and the files of the recipe need preparation."""

import pytest
from recipes import prepared_recipe

from rlhf_core.errors import BadInput
from rlhf_core.stage_catalogue import PREPARE
from tasks.stages import prepare
from tasks.stages.contract import outputs_of


def test_a_local_base_model_needs_no_preparation(tmp_path, have):
    local = prepared_recipe(model={"base": str(tmp_path / "base")})
    assert (
        prepare.spec(local, {}) is None
        and outputs_of(PREPARE, local, None)["base"].digest == have["base"].digest
    )
    with pytest.raises(BadInput, match=r"model.base is './missing'"):
        prepare.spec(prepared_recipe(model={"base": "./missing"}), {})

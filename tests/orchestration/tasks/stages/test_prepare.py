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


def test_the_split_of_the_generated_data_is_in_the_spec_and_does_not_follow_the_seed():
    quickstart = prepared_recipe()
    data = quickstart.data.model_dump() | {"split_seed": 3}
    other = prepared_recipe(seed=2, data=data)
    assert prepare.spec(quickstart, {}).config.split_seed == 1
    assert prepare.spec(prepared_recipe(seed=2), {}).config.split_seed == 1
    assert prepare.spec(other, {}).config.split_seed == 3
    hub = prepared_recipe(model={"base": "org/name"})
    assert "split_seed" not in prepare.spec(hub, {}).config.model_dump(mode="json")


def test_a_mistyped_folder_is_not_asked_of_the_hub(tmp_path, monkeypatch):
    (tmp_path / "models" / "base").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadInput, match=r"'models/bsae': no such folder .*\(models/base there\)"):
        prepare.spec(prepared_recipe(model={"base": "models/bsae"}), {})
    assert prepare.spec(prepared_recipe(model={"base": "org/name"}), {}) is not None

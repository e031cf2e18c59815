"""The inputs of the SFT stage."""

from recipes import prepared_recipe

from tasks.stages import sft


def test_a_given_model_is_measured_and_used_in_place_of_a_trained_one(have, tmp_path):
    given = prepared_recipe(model={"base": "quickstart", "sft": str(tmp_path / "sft")})
    spec = sft.spec(given, have)
    assert spec.config.train is False and spec.inputs["given"].digest == have["sft"].digest

"""The quickstart's numbers over seeds: `make test-slow`."""

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_quickstart_passes_every_gate_and_raises_true_utility(seed, open_workspace):
    workspace = open_workspace()
    code, document, err = workspace.run(f"seed={seed}", f"data.split_seed={seed}")
    assert code == 0, err
    assert document["promotion"]["promoted"] is True
    reward, evaluation = (
        workspace.result("reward")["metrics"],
        workspace.result("evaluate")["metrics"],
    )
    print(
        {"seed": seed}
        | {
            k: round(v, 3)
            for k, v in (reward | evaluation).items()
            if "accuracy" in k or "independent" in k
        }
    )
    assert reward["reward/accuracy"] >= 0.70
    assert evaluation["eval/independent_gain_lower"] > 1.0
    assert evaluation["eval/kl_per_response"] < 20

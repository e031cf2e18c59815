"""Metrics of one PPO batch."""

import pytest
from ppo_batch import experience

from rlhf_core.config import PPO
from rlhf_core.ppo.metrics import experience_metrics


@pytest.mark.parametrize("estimator", ["k1", "k2", "k3"])
def test_kl_per_response_is_k1_from_the_reference_summed_over_tokens_whatever_the_estimator(
    models, estimator
):
    """Gate, budget and adaptive beta read it: neither per token, nor from the sampler."""
    made = experience(models, PPO(kl_estimator=estimator))
    old, ref = made.outputs.old_logprobs_BR, made.outputs.ref_logprobs_BR
    per_response = []
    for row, real in enumerate(made.batch.response_mask_BR.tolist()):
        gaps = [float(old[row, t] - ref[row, t]) for t, there in enumerate(real) if there]
        per_response.append(sum(gaps))
    found = experience_metrics(made)
    assert found["ppo/kl_per_response"] == pytest.approx(sum(per_response) / 8, rel=1e-5)
    tokens = int(made.batch.response_mask_BR.sum())
    assert found["ppo/kl_per_token"] == pytest.approx(sum(per_response) / tokens, rel=1e-5)
    assert abs(sum(per_response)) > 0.1

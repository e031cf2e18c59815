"""Log-probabilities of responses, by a slow loop over tokens."""

import pytest
import torch
from transformers import AutoModelForCausalLM

from rlhf_core.batching.batch import Sequence
from rlhf_core.config import DPO
from rlhf_core.modeling.models import inference, load_policy
from rlhf_core.reward.aligned_policy import response_logprobs


def test_response_logprobs_are_those_of_a_loop_over_tokens(tiny_model):
    sequences = [Sequence([7, 8], [9, 10, 1]), Sequence([9], [7, 1]), Sequence([8, 8, 8], [1])]
    model = inference(load_policy(tiny_model), dtype="float32")
    found_N = response_logprobs(model, sequences, 0, DPO(micro_batch_tokens=12))
    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    for sequence, found in zip(sequences, found_N, strict=True):
        total, ids = 0.0, list(sequence.prompt)
        for token in sequence.response:
            with torch.no_grad():
                total += float(model(torch.tensor([ids])).logits[0, -1].log_softmax(-1)[token])
            ids.append(token)
        assert float(found) == pytest.approx(total, abs=1e-4)

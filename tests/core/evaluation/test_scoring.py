"""The independent scorer reads the whole conversation."""

from rlhf_core.batching.batch import Sequence
from rlhf_core.config import Evaluate
from rlhf_core.data.tokenizer import load_tokenizer
from rlhf_core.evaluation.replies import Replies, Setup
from rlhf_core.evaluation.scoring import independent_scores

DIALOGUE = [
    {"role": "system", "content": "answer in French"},
    {"role": "user", "content": "the capital of Peru?"},
]


def test_the_scorer_sees_system_message_roles_and_earlier_turns(tiny_model):
    rows = [{"prompt": DIALOGUE}, {"prompt": [{"role": "user", "content": "hello"}]}]
    setup = Setup(load_tokenizer(tiny_model), rows, Evaluate(), 0, "float32")
    replies = {"policy": Replies([Sequence([2], [3])] * 2, ["Lima", "hi"], [True, True])}
    seen = []

    def french(prompts: list[str], answers: list[str]) -> list[float]:
        seen.extend(prompts)
        return [float("French" in prompt) for prompt in prompts]

    def roles(prompts: list[str], answers: list[str], messages: list) -> list[float]:
        return [float(own[0]["role"] == "system") for own in messages]

    assert independent_scores(setup, french, replies)["policy"].tolist() == [1.0, 0.0]
    assert seen == ["system: answer in French\n\nuser: the capital of Peru?", "hello"]
    assert independent_scores(setup, roles, replies)["policy"].tolist() == [1.0, 0.0]

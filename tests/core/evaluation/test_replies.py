"""Each model is prompted by its own chat template, and its replies are read back the same way."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from stages import section_spec, splits_of

from rlhf_core.__main__ import run_stage
from rlhf_core.batching.batch import encode
from rlhf_core.config import Evaluate, Sampling
from rlhf_core.data.render import render_prompt
from rlhf_core.data.splits import load_split
from rlhf_core.data.tokenizer import load_tokenizer
from rlhf_core.evaluation.replies import Setup, generate_replies
from rlhf_core.modeling.models import inference, load_policy, load_scalar, save_model
from rlhf_core.reward.scoring import score_sequences
from rlhf_core.rundir import RunDir

OTHER_TEMPLATE = (
    "{% for m in messages %}{{ m['role'] + ' : ' + m['content'] + ' <eos> ' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant : ' }}{% endif %}"
)
TINY = Evaluate(sampling=Sampling(engine="transformers", max_new_tokens=12), max_prompts=50)
ROWS = [{"prompt": [{"role": "user", "content": f"w{i} w{i + 1}"}]} for i in range(4)]


@pytest.fixture(scope="module")
def champion(tiny_model, tmp_path_factory) -> Path:
    """The same weights with another chat template and end of turn."""
    folder = tmp_path_factory.mktemp("champion") / "model"
    tokenizer = load_tokenizer(tiny_model)
    tokenizer.chat_template = OTHER_TEMPLATE.replace("<eos>", "<unk>")
    tokenizer.eos_token = "<unk>"
    policy = load_policy(tiny_model)
    policy.model.generation_config.eos_token_id = tokenizer.eos_token_id
    save_model(policy, tokenizer, folder)
    return folder


def test_the_champion_is_prompted_by_its_own_template_and_ends_with_its_own_token(
    tiny_model, champion
):
    own, others = load_tokenizer(tiny_model), load_tokenizer(champion)
    setup = Setup(own, ROWS, TINY, 1, "float32", {"champion": others})
    replies, _ = generate_replies(setup, {"policy": tiny_model, "champion": champion})
    for name, tokenizer in (("policy", own), ("champion", others)):
        prompts = [one.prompt for one in replies[name].sequences]
        assert prompts == [render_prompt(tokenizer, row["prompt"]) for row in ROWS]
        ends = [one.response[-1] == tokenizer.eos_token_id for one in replies[name].sequences]
        assert ends == replies[name].ended
    assert others.eos_token_id != own.eos_token_id
    alone, _ = generate_replies(Setup(others, ROWS, TINY, 1, "float32"), {"policy": champion})
    assert alone["policy"] == replies["champion"]


def test_replies_of_a_champion_with_another_tokenizer_are_scored_by_their_text(
    tiny_model, champion, tiny_splits, tmp_path
):
    save_model(
        load_scalar(tiny_model, new_head=True), load_tokenizer(tiny_model), tmp_path / "reward"
    )
    paths = {"policy": tiny_model, "sft": tiny_model, "champion": champion}
    paths |= {"reward": tmp_path / "reward"}
    paths |= splits_of(tiny_splits, "prompts_heldout", "demonstrations_heldout")
    spec = section_spec("evaluate", TINY, paths)
    result = run_stage(spec, RunDir(tmp_path / "run"))
    assert 0 <= result.metrics["eval/win_rate_vs_champion"] <= 1
    items = pq.read_table(tmp_path / "run" / "items.parquet").to_pydict()
    ended = [i for i, end in enumerate(items["champion_ended"]) if end]
    assert ended
    rows = load_split(tiny_splits / "prompts_heldout.jsonl")
    by_prompt = {row["prompt"][0]["content"]: row["prompt"] for row in rows}
    asked = [
        {"prompt": by_prompt[items["prompt"][i]], "reply": items["champion_reply"][i]}
        for i in ended
    ]
    sequences = encode(load_tokenizer(tmp_path / "reward"), asked, "reply")
    forward = inference(load_scalar(tmp_path / "reward"), dtype="float32")
    expected = score_sequences(forward, sequences, 0, 4096).tolist()
    assert [items["champion_score"][i] for i in ended] == pytest.approx(expected, abs=1e-5)
    assert torch.tensor(expected).std() > 1e-3

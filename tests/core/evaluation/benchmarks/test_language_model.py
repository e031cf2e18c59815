"""A model as lm-eval asks it: the log-likelihoods and replies are the model's own."""

from dataclasses import dataclass

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from rlhf_core.config import Sampling
from rlhf_core.errors import BadInput
from rlhf_core.evaluation.benchmarks.language_model import cut, sampling_of


@dataclass
class Request:
    """The fields of lm-eval's requests that the model reads."""

    args: tuple
    task_name: str = "a_task"


def by_hand(folder, context: list[int], continuation: list[int]) -> tuple[float, bool]:
    """Log-likelihood by one pass over one text, and whether each token is the most likely."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    logprobs = model(torch.tensor([context + continuation])).logits[0].log_softmax(-1)
    rows = logprobs[len(context) - 1 : -1]
    chosen = rows[range(len(continuation)), continuation]
    return chosen.sum().item(), bool((rows.argmax(-1) == torch.tensor(continuation)).all())


@pytest.mark.parametrize(("chat", "packing"), [(False, False), (True, False), (False, True)])
def test_log_likelihoods_are_those_of_a_pass_over_each_text_alone(asked, tiny_model, chat, packing):
    model = asked(chat_template=chat, packing=packing)
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    context = model.apply_chat_template([{"role": "user", "content": "w1 w2"}]) if chat else "w1 w2"
    pairs = [(context, " w3"), (context, " w4 w5 w6"), ("w7", " w8 w9"), ("w1 " * 40, "w2")]
    found = model.loglikelihood([Request(pair) for pair in pairs], disable_tqdm=True)
    for (before, after), (logprob, greedy) in zip(pairs, found, strict=True):
        whole, prompt = (
            tokenizer.encode(t, add_special_tokens=False) for t in (before + after, before)
        )
        assert (logprob, greedy) == (
            pytest.approx(by_hand(tiny_model, prompt, whole[len(prompt) :])[0], abs=1e-4),
            by_hand(tiny_model, prompt, whole[len(prompt) :])[1],
        )


def test_a_text_without_context_follows_the_first_special_token(asked, tiny_model):
    ((logprob, _),) = asked().loglikelihood([Request(("", "w3 w4"))], disable_tqdm=True)
    ids = AutoTokenizer.from_pretrained(tiny_model).encode("w3 w4", add_special_tokens=False)
    assert logprob == pytest.approx(by_hand(tiny_model, [1], ids)[0], abs=1e-4)


def test_a_long_context_loses_its_beginning(asked, tiny_model):
    model = asked(chat_template=False)
    ((long, _),) = model.loglikelihood([Request(("w1 " * 3000 + "w5", " w3"))], disable_tqdm=True)
    kept = model.tok_encode("w1 " * 1022 + "w5")
    assert len(kept) == 1023
    assert long == pytest.approx(by_hand(tiny_model, kept, model.tok_encode("w3"))[0], abs=1e-3)
    with pytest.raises(BadInput, match="has 2000 tokens"):
        model.loglikelihood([Request(("w1", " w3" * 2000))], disable_tqdm=True)


def test_replies_are_greedy_searchs_up_to_the_first_stop_string(asked, tiny_model):
    model = asked(chat_template=False)
    settings = {"until": [], "do_sample": False, "max_gen_toks": 6}
    prompts = ["w1 w2", "w3", "w4 w5 w6"]
    found = model.generate_until([Request((text, settings)) for text in prompts])
    reference = AutoModelForCausalLM.from_pretrained(tiny_model)
    for text, reply in zip(prompts, found, strict=True):
        ids = torch.tensor([model.tok_encode(text)])
        written = reference.generate(ids, max_new_tokens=6, do_sample=False, pad_token_id=0)
        assert reply == model.tokenizer.decode(written[0, ids.shape[1] :], skip_special_tokens=True)
    first = found[0].split()[0]
    (stopped,) = model.generate_until([Request((prompts[0], settings | {"until": [first]}))])
    assert stopped == ""


def test_a_tasks_settings_decide_how_it_is_sampled():
    base = Sampling(engine="transformers", temperature=0.7, max_new_tokens=32)
    greedy = sampling_of(base, {"max_gen_toks": 9, "temperature": 0.0}, None)
    assert (greedy.engine, greedy.temperature, greedy.max_new_tokens) == ("transformers", 0.0, 9)
    assert sampling_of(base, {}, None).max_new_tokens == 256
    assert sampling_of(base, {}, 300).max_new_tokens == 150
    drawn = sampling_of(base, {"do_sample": True, "temperature": 0.5}, None)
    assert drawn.temperature == 0.5


def test_a_text_ends_at_the_first_of_its_stop_strings():
    assert cut("a b\n\nc. d", ["\n\n", "."]) == "a b"
    assert cut("a. b", ".") == "a" and cut("a b", []) == "a b" and cut("a b", [""]) == "a b"


def test_the_perplexity_of_whole_texts_is_refused(asked):
    with pytest.raises(BadInput, match="a_task measures the perplexity of whole texts"):
        asked().loglikelihood_rolling([Request(("w1",))])


def test_a_begun_answer_follows_the_opening_of_the_models_turn(asked):
    model, question = asked(), {"role": "user", "content": "w1"}
    opened = model.apply_chat_template([question])
    begun = [question, {"role": "assistant", "content": "w2"}]
    assert model.apply_chat_template(begun, add_generation_prompt=False) == f"{opened}w2"

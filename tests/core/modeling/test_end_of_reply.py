"""The end of a reply is reported, and a template that opens no answer is refused."""

import pytest
from chat_families import CHATML, FAMILIES, REASONING

from rlhf_core.data.chat_template import ensure_chat_template
from rlhf_core.errors import BadInput
from rlhf_core.modeling.end_of_reply import settle_end_of_turn


def settled(name: str, template: str | None = None, severity="warning"):
    tokenizer = (FAMILIES | REASONING)[name].tokenizer()
    tokenizer.chat_template = template or tokenizer.chat_template
    ensure_chat_template(tokenizer)
    return tokenizer, settle_end_of_turn(tokenizer, [tokenizer.eos_token_id], severity)


@pytest.mark.parametrize("name", FAMILIES | REASONING)
def test_each_family_ends_its_replies_with_a_token_of_its_template(name):
    tokenizer, (entry,) = settled(name)
    assert tokenizer.eos_token == (FAMILIES | REASONING)[name].end
    assert entry["passed"] and entry["rule"] == "end_of_turn" and entry["found"] == 0


def test_the_entry_names_the_token_that_is_taken_and_those_that_others_name():
    _, (entry,) = settled("chatml on a base model")
    assert entry["detail"] == (
        "the chat template ends an answer with '<|im_end|>', which is taken; eos_token is"
        " '<|endoftext|>', generation_config stops at '<|endoftext|>'"
    )


def test_a_template_without_an_end_of_turn_is_warned_of_with_both():
    template = (
        "{% for m in messages %}{{ '### ' + m.role + ':\n' + m.content + '\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '### assistant:\n' }}{% endif %}"
    )
    tokenizer, (entry,) = settled("no template", template)
    assert not entry["passed"] and entry["severity"] == "warning" and entry["found"] == 1
    assert entry["detail"] == (
        "the chat template writes no token after an answer; eos_token is '<|endoftext|>',"
        " generation_config stops at '<|endoftext|>': '<|endoftext|>' is taken"
    )
    assert tokenizer.eos_token == "<|endoftext|>"
    assert settled("no template", template, "off")[1] == []


@pytest.mark.parametrize(
    ("template", "opening"),
    [
        (CHATML.partition("{% if add_generation_prompt")[0], r"'<\|im_start\|>assistant\\n'"),
        (
            "{% for m in messages %}{{ m.role + ': ' + m.content + '\n' }}{% endfor %}",
            "'assistant: '",
        ),
    ],
)
def test_a_template_that_opens_answers_and_no_prompt_is_refused_with_the_opening(template, opening):
    with pytest.raises(BadInput, match=f"writes {opening} before an answer, but add_generation"):
        settled("qwen 2.5", template)

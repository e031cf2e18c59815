"""The findings on a tokenizer and its chat template, by the pipeline's own rendering."""

import shutil

import pytest
from transformers import AutoTokenizer

from rlhf_core.data.tokenizer import load_tokenizer
from rlhf_core.inspection.tokens import tokenizer_findings

USER = "{{ m['role'] + ' ' + m['content'] + ' ' }}"
TURNS = "{% for m in messages %}" + USER + "{% endfor %}"
CLOSED = (
    "{% for m in messages %}{{ m['role'] + ' ' + m['content'] + ' ' }}"
    "{% if m['role'] == 'assistant' %}{{ '<eot> ' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant ' }}{% endif %}"
)


@pytest.fixture
def found(tiny_model, tmp_path):
    """The findings on the tiny model's tokenizer after a change, by name."""

    def look(change) -> dict:
        folder = shutil.copytree(tiny_model, tmp_path / "model")
        tokenizer = AutoTokenizer.from_pretrained(folder)
        change(tokenizer)
        tokenizer.save_pretrained(folder)
        return {one.name: one for one in tokenizer_findings(load_tokenizer(folder), folder)}

    return look


def set_template(template: str):
    return lambda tokenizer: setattr(tokenizer, "chat_template", template)


def test_the_default_template_is_named(found, tiny_model):
    def remove(tokenizer):
        tokenizer.chat_template = None

    def none(tokenizer):
        remove(tokenizer)

    one = found(none)["chat template"]
    if one.level == "ok":  # the folder's chat_template.jinja is there still
        (tiny_model / "chat_template.jinja").exists()
    assert one.values["source"] == "the pipeline's default"


def test_a_template_of_its_own_that_ends_turns_with_another_token(found):
    def change(tokenizer):
        tokenizer.add_special_tokens({"additional_special_tokens": ["<eot>"]})
        tokenizer.chat_template = CLOSED

    one = found(change)
    assert one["chat template"].values["source"] == "the model's own"
    assert one["end of turn"].values == {"id": 62, "stops": [1, 62]}
    assert "the template writes it, not eos_token '<eos>'" in one["end of turn"].found
    assert "samplers also stop at '<eos>' (1)" in one["end of turn"].found
    assert one["several turns"].values == {"same": True}


def test_a_template_that_prints_the_date_or_refuses_a_system_message(found):
    refusing = (
        "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    )
    one = found(set_template(refusing + "{{ strftime_now('%d') }} " + TURNS))
    assert one["date"].level == "note"
    assert one["system message"].values == {"accepted": False}
    assert "no system" in one["system message"].found


def test_a_template_that_refuses_a_question_is_refused(found):
    one = found(set_template("{{ raise_exception('never') }}"))
    assert one["chat template"].level == "refused" and "never" in one["chat template"].found
    assert "several turns" not in one and one["padding"].level == "ok"


def test_a_template_that_drops_an_earlier_answers_reasoning_is_told(found):
    template = (
        "{% for m in messages %}{% if m['role'] == 'user' or loop.last %}" + USER + "{% endif %}"
        "{% endfor %}"
    )
    assert found(set_template(template))["several turns"].values == {"same": False}


def test_a_beginning_of_text_that_is_written_twice_is_told(found):
    def change(tokenizer):
        tokenizer.add_special_tokens({"bos_token": "<unk>"})
        tokenizer.chat_template = "{{ bos_token }} {{ bos_token }} " + TURNS

    one = found(change)["beginning of text"]
    assert one.level == "note" and one.values["count"] >= 2


@pytest.mark.parametrize(("pad", "level"), [(None, "note"), ("<eos>", "note"), ("<pad>", "ok")])
def test_padding_is_told(found, pad, level):
    def change(tokenizer):
        tokenizer.pad_token = pad

    assert found(change)["padding"].level == level

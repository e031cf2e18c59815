"""The end of an assistant's turn is what the template writes there, in targets, stop and folder."""

import shutil

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from rlhf_core.data.chat_template import DEFAULT_CHAT_TEMPLATE
from rlhf_core.data.end_of_turn import end_of_turn, set_end_of_turn
from rlhf_core.data.render import render_response
from rlhf_core.data.tokenizer import load_tokenizer
from rlhf_core.modeling.models import load_policy, save_model

EOS = 1  # of the tiny model's tokenizer
END = 62  # the first token that is added to it
LOOP = "{% for m in messages %}"
OPEN = "{% if add_generation_prompt %}"
TEMPLATES = {  # by family: how a turn is written, and what ends the assistant's
    "chatml": (
        LOOP
        + "<|im_start|> {{ m.role }}\n{{ m.content }} <|im_end|>\n{% endfor %}"
        + OPEN
        + "<|im_start|> assistant\n{% endif %}",
        "<|im_end|>",
    ),
    "llama-3": (
        LOOP
        + "<|h|> {{ m.role }} <|/h|>\n\n{{ m.content }} <|eot_id|>{% endfor %}"
        + OPEN
        + "<|h|> assistant <|/h|>\n\n{% endif %}",
        "<|eot_id|>",
    ),
    "gemma": (
        LOOP
        + "<start_of_turn> {{ m.role }}\n{{ m.content | trim }} <end_of_turn>\n{% endfor %}"
        + OPEN
        + "<start_of_turn> model\n{% endif %}",
        "<end_of_turn>",
    ),
    "phi-3": (
        LOOP
        + "<|{{ m.role }}|> \n{{ m.content }} <|end|>\n{% endfor %}"
        + OPEN
        + "<|assistant|> \n{% else %}{{ eos_token }}{% endif %}",
        "<|end|>",
    ),
    "zephyr": (
        LOOP
        + "<|{{ m.role }}|> \n{{ m.content }} {{ eos_token }}\n{% endfor %}"
        + OPEN
        + "<|assistant|> \n{% endif %}",
        "<eos>",
    ),
    "think": (
        LOOP
        + "<|{{ m.role }}|> {% if m.role == 'assistant' %}<think> \n </think> {% endif %}"
        + "{{ m.content }} <|end|>\n{% endfor %}",
        "<|end|>",
    ),
    "no end": (LOOP + "{{ m.role }}: {{ m.content }}\n{% endfor %}", None),
    "refuses": ("{{ raise_exception('no') }}", None),
    "default": (DEFAULT_CHAT_TEMPLATE, "<eos>"),
}


@pytest.fixture
def folder(tiny_model, tmp_path):
    return shutil.copytree(tiny_model, tmp_path / "model")


def with_template(folder, template: str, *ends: str, special: bool = True):
    """Save a chat template and its tokens, embeddings included, into the folder."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(list(ends), special_tokens=special)
    tokenizer.chat_template = template
    tokenizer.save_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    model.resize_token_embeddings(len(tokenizer))
    model.save_pretrained(folder)
    return tokenizer


@pytest.mark.parametrize("family", TEMPLATES)
def test_the_end_of_turn_is_the_first_token_after_the_assistants_text(folder, family):
    template, end = TEMPLATES[family]
    tokenizer = with_template(folder, template, *[end] if end not in (None, "<eos>") else [])
    found = end_of_turn(tokenizer)
    assert (None if found is None else tokenizer.convert_ids_to_tokens(found)) == end


@pytest.mark.parametrize("family", ["zephyr", "default", "no end", "refuses"])
def test_a_tokenizer_that_agrees_with_its_template_stays_as_it_is(folder, family):
    tokenizer = with_template(folder, TEMPLATES[family][0])
    tokenizer.save_pretrained(folder / "before")
    set_end_of_turn(tokenizer)
    tokenizer.save_pretrained(folder / "after")
    for file in (folder / "before").iterdir():
        assert file.read_bytes() == (folder / "after" / file.name).read_bytes()


@pytest.mark.parametrize("special", [True, False])
def test_targets_end_with_it_and_the_saved_folder_stops_at_it_and_at_the_first_eos(
    folder, tmp_path, special
):
    with_template(folder, TEMPLATES["chatml"][0], "<|im_end|>", special=special)
    tokenizer = load_tokenizer(folder)
    assert tokenizer.eos_token_id == END and render_response(tokenizer, "w1 w2")[-1] == END
    assert tokenizer.decode([7, END], skip_special_tokens=True).strip() == "w1"
    save_model(load_policy(folder), tokenizer, tmp_path / "out")
    assert GenerationConfig.from_pretrained(tmp_path / "out").eos_token_id == [END, EOS]
    assert AutoTokenizer.from_pretrained(tmp_path / "out").eos_token_id == END
    assert load_tokenizer(tmp_path / "out").eos_token_id == END


def test_a_model_that_ends_turns_with_its_eos_token_is_saved_as_before(tiny_model, tmp_path):
    save_model(load_policy(tiny_model), load_tokenizer(tiny_model), tmp_path / "out")
    assert GenerationConfig.from_pretrained(tmp_path / "out").eos_token_id == EOS

"""A template prints the date of the stage's spec, on each day and in each folder."""

import shutil
from datetime import date

import pytest
from chat_families import FAMILIES, LLAMA_3_2
from stages import section_spec, splits_of
from transformers import AutoTokenizer

from rlhf_core.config import SFT
from rlhf_core.data.chat_template import ensure_chat_template, prompt_text
from rlhf_core.errors import BadInput
from rlhf_core.rundir import RunDir
from rlhf_core.template_date import asks_for_date, folder_asks_for_date, template_date

USER = [{"role": "user", "content": "w1 w2"}]


def loaded(day: str | None, template: str = LLAMA_3_2):
    tokenizer = FAMILIES["llama 3.2"].tokenizer()
    tokenizer.chat_template = template
    with template_date(day):
        ensure_chat_template(tokenizer)
    return tokenizer


def test_the_template_prints_the_date_that_is_fixed_and_is_else_the_same():
    texts = {day: prompt_text(loaded(day), USER) for day in ("2026-11-27", "2020-01-02")}
    assert "Today Date: 27 Nov 2026\n" in texts["2026-11-27"]
    assert texts["2020-01-02"] == texts["2026-11-27"].replace("27 Nov 2026", "02 Jan 2020")
    live = prompt_text(loaded(None), USER)
    assert live.replace(f"{date.today():%d %b %Y}", "27 Nov 2026") == texts["2026-11-27"]


def test_a_saved_tokenizer_keeps_its_date_in_any_program_and_in_later_stages(tmp_path):
    loaded("2026-11-27").save_pretrained(tmp_path)
    assert not folder_asks_for_date(tmp_path)
    plain = AutoTokenizer.from_pretrained(tmp_path)
    assert "27 Nov 2026" in plain.apply_chat_template(USER, tokenize=False)
    with template_date("2030-05-05"):
        ensure_chat_template(plain)
    assert "27 Nov 2026" in prompt_text(plain, USER)


@pytest.mark.parametrize("begin", ["\n", "\n\n  x", " ", "", "{% if true %}a{% endif %}\n"])
def test_the_text_of_the_template_stays_as_it_is(begin):
    template = (
        begin + "{{ strftime_now('%Y') }}{{ strftime_now( \"%B\" ) }}{{ messages[0].content }}"
    )
    found = loaded("2026-11-27", template).apply_chat_template(USER, tokenize=False)
    plain = template.replace("strftime_now('%Y')", "2026").replace(
        'strftime_now( "%B" )', "'November'"
    )
    assert found == loaded(None, plain).apply_chat_template(USER, tokenize=False)


def test_a_format_that_is_not_written_in_the_call_is_refused():
    with pytest.raises(BadInput, match="not written in the call; expected one such as"):
        loaded("2026-11-27", "{% set f = '%Y' %}{{ strftime_now(f) }}{{ messages[0].content }}")


def test_a_template_without_the_date_stays_as_it_is():
    template = FAMILIES["llama 3"].template
    assert not asks_for_date(template) and asks_for_date(LLAMA_3_2)
    assert loaded("2026-11-27", template).chat_template == template


def test_a_stage_trains_and_saves_the_date_of_its_spec(tiny_model, tiny_splits, tmp_path):
    """Two runs with one date give the same bytes, whatever the day is."""
    from rlhf_core.__main__ import run_stage

    model = tmp_path / "base"
    shutil.copytree(tiny_model, model)
    tokenizer = AutoTokenizer.from_pretrained(model)
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m.content }} {% endfor %}{{ strftime_now('w%m w%d') }} user : "
    )
    tokenizer.save_pretrained(model)
    assert folder_asks_for_date(model)
    inputs = {"model": model, **splits_of(tiny_splits, "demonstrations_train")}
    inputs |= splits_of(tiny_splits, "demonstrations_heldout")
    digests = []
    for number, day in enumerate(("2026-11-27", "2026-11-27", "2026-12-28")):
        config = SFT(epochs=1, max_train=8)
        spec = section_spec("sft", config, inputs, train=True, template_date=day)
        result = run_stage(spec, RunDir(tmp_path / str(number)))
        made = AutoTokenizer.from_pretrained(tmp_path / str(number) / "model")
        assert made.apply_chat_template(USER, tokenize=False).endswith(
            f"w{day[5:7]} w{day[8:]} user : "
        )
        digests.append(result.outputs["model"].digest)
    assert digests[0] == digests[1] != digests[2]

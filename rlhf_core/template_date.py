"""The date that a chat template prints, fixed: each stage, each day and each server reads the same.

Templates such as Llama 3.2's call strftime_now. While a stage runs, each tokenizer that it loads
gets a template in which that call gives the date of the stage's spec. The template is saved with
the trained models.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

from rlhf_core.errors import BadInput

if TYPE_CHECKING:  # a spec asks for a folder's template alone
    from transformers import PreTrainedTokenizerBase

_CALL = "strftime_now("
_MACRO = f"macro {_CALL}"  # begins the template's own definition, which wins over transformers'
_FORMAT = re.compile(r"strftime_now\(\s*(['\"])(.*?)\1\s*\)")
_date: ContextVar[date | None] = ContextVar("template_date", default=None)


@contextmanager
def template_date(day: str | None) -> Iterator[None]:
    """Fix the date of the templates of all tokenizers that are loaded inside, as YYYY-MM-DD."""
    token = _date.set(date.fromisoformat(day) if day else None)
    try:
        yield
    finally:
        _date.reset(token)


def asks_for_date(template: str) -> bool:
    """Return True if a template prints the day on which it is applied."""
    return _CALL in template and _MACRO not in template


def folder_asks_for_date(folder: Path) -> bool:
    """Return True if a chat template in a model's folder prints the day on which it is applied."""
    files = [folder / "chat_template.jinja", folder / "tokenizer_config.json"]
    return any(
        file.is_file() and asks_for_date(file.read_text(encoding="utf-8", errors="replace"))
        for file in files
    )


def freeze_date(tokenizer: "PreTrainedTokenizerBase") -> None:
    """Make the tokenizer's template print the date that is fixed, if one is, and no other.

    Raises BadInput if the template's format of the date cannot be read from its text.
    """
    template, day = tokenizer.get_chat_template(), _date.get()
    if day is None or not asks_for_date(template):
        return
    formats = dict.fromkeys(found[2] for found in _FORMAT.finditer(template))
    if not formats:
        raise BadInput(
            f"the chat template in {tokenizer.name_or_path!r} prints today's date by strftime_now"
            " with a format that is not written in the call; expected one such as"
            " strftime_now('%d %b %Y'). Write the format, or the date itself, into the template."
        )
    dates = {form: day.strftime(form) for form in formats}
    # the text after the macro keeps its first newline, which jinja takes after a tag
    macro = f"{{% {_MACRO}format) %}}{{{{ {dates!r}[format] }}}}{{% endmacro %}}{{{{ '' }}}}"
    tokenizer.chat_template = macro + template

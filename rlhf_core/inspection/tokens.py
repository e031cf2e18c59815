"""The effect of a model's tokenizer and chat template on a dialogue, as the pipeline renders it."""

from functools import partial
from pathlib import Path

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from rlhf_core.data.chat_template import DEFAULT_CHAT_TEMPLATE
from rlhf_core.data.render import render_prompt, render_response, token_text
from rlhf_core.errors import BadInput
from rlhf_core.inspection.findings import ModelFinding, checked, note, ok, refuses
from rlhf_core.sampling.stops import stop_ids_of
from rlhf_core.template_date import folder_asks_for_date

QUESTION = {"role": "user", "content": "Is it so?"}
ANSWER = "So it is."


def tokenizer_findings(tokenizer: PreTrainedTokenizerBase, folder: Path) -> list[ModelFinding]:
    """Return what the tokenizer, as load_tokenizer gives it, does with a dialogue.

    folder: the model's, whose files say what was there before load_tokenizer.
    """
    own = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    found = [checked("chat template", partial(_template, tokenizer, own.chat_template is not None))]
    if not refuses(found, "chat template"):
        found += [_system(tokenizer), _history(tokenizer), _date(folder)]
        found.append(_beginning(tokenizer))
    return [*found, _end_of_turn(tokenizer, own, folder), _padding(own)]


def named(tokenizer: PreTrainedTokenizerBase, token: int) -> str:
    """Return a token as its text and its id: '<eos>' (1)."""
    return f"{token_text(tokenizer, token)!r} ({token})"


def template_source(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return where the chat template of a loaded tokenizer comes from."""
    is_default = DEFAULT_CHAT_TEMPLATE in str(tokenizer.chat_template)
    return "the pipeline's default" if is_default else "the model's own"


def _template(tokenizer: PreTrainedTokenizerBase, has_own: bool) -> ModelFinding:
    render_prompt(tokenizer, [QUESTION])
    source = template_source(tokenizer)
    if not has_own:
        return note(
            "chat template",
            f"none: {source} is used and saved with the models (role tag, text, end of turn)",
            source=source,
        )
    return ok("chat template", source, source=source)


def _system(tokenizer: PreTrainedTokenizerBase) -> ModelFinding:
    try:
        render_prompt(tokenizer, [{"role": "system", "content": "Be brief."}, QUESTION])
    except BadInput as error:
        return note("system message", f"refused: {error}", accepted=False)
    return ok("system message", "accepted", accepted=True)


def _history(tokenizer: PreTrainedTokenizerBase) -> ModelFinding:
    """Compare a dialogue that goes on with the prompt and the answer that it began with."""
    first = [*render_prompt(tokenizer, [QUESTION]), *render_response(tokenizer, ANSWER)]
    turns = [QUESTION, {"role": "assistant", "content": ANSWER}, QUESTION]
    try:
        whole = render_prompt(tokenizer, turns)
    except BadInput as error:
        return note("several turns", f"refused: {error}", same=None)
    if whole[: len(first)] == first:
        return ok("several turns", "a model reads its own answers as it wrote them", same=True)
    return note(
        "several turns",
        "the template writes an earlier answer differently from how the model writes it",
        same=False,
    )


def _date(folder: Path) -> ModelFinding:
    if folder_asks_for_date(folder):
        return note(
            "date",
            "the template asks for today's: a run prints one date in all its stages"
            " (model.template_date)",
            printed=True,
        )
    return ok("date", "the template prints none", printed=False)


def _beginning(tokenizer: PreTrainedTokenizerBase) -> ModelFinding:
    bos = tokenizer.bos_token_id
    if bos is None:
        return ok("beginning of text", "the tokenizer has no such token", id=None)
    count = render_prompt(tokenizer, [QUESTION]).count(bos)
    by_itself = tokenizer("a")["input_ids"][:1] == [bos]
    times = {0: "not written", 1: "written once"}.get(count, f"written {count} times")
    sentence = f"{named(tokenizer, bos)} is {times} in a prompt"
    if count == 1 or (not count and not by_itself):
        return ok("beginning of text", sentence, id=bos, count=count)
    expected = "the tokenizer begins each text with it" if by_itself else "expected once at most"
    return note("beginning of text", f"{sentence}; {expected}", id=bos, count=count)


def _end_of_turn(
    tokenizer: PreTrainedTokenizerBase, own: PreTrainedTokenizerBase, folder: Path
) -> ModelFinding:
    eos = tokenizer.eos_token_id
    stops = sorted({eos, *stop_ids_of(folder)})
    others = [named(tokenizer, token) for token in stops if token != eos]
    sentence = f"{named(tokenizer, eos)} ends a reply"
    if eos != own.eos_token_id:
        sentence += f": the template writes it, not eos_token {own.eos_token!r}"
    if others:
        sentence += f"; samplers also stop at {', '.join(others)} (generation_config)"
    return ok("end of turn", sentence, id=eos, stops=stops)


def _padding(own: PreTrainedTokenizerBase) -> ModelFinding:
    if own.pad_token_id is None:
        return note("padding", "no pad token: the end of turn pads, and is masked", id=None)
    if own.pad_token_id == own.eos_token_id:
        return note("padding", f"{named(own, own.pad_token_id)}, which is eos_token too: masked")
    return ok("padding", named(own, own.pad_token_id), id=own.pad_token_id)

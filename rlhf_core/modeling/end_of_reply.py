"""The finding about what ends a reply: the template's token, eos_token or generation_config."""

from collections.abc import Iterable

from transformers import PreTrainedTokenizerBase

from rlhf_core.config import Severity
from rlhf_core.data.end_of_turn import assistant_turn, end_of_turn, set_end_of_turn
from rlhf_core.errors import BadInput

RULE = "end_of_turn"


def settle_end_of_turn(
    tokenizer: PreTrainedTokenizerBase, stops: Iterable[int], severity: Severity
) -> list[dict]:
    """Set the tokenizer's end of turn, and return the report's entry about it, or none.

    stops: the ids at which the model's generation_config stops. The entry fails where the template
    writes no token of its own after an answer: a dialogue that goes on then lacks the EOS that the
    model wrote. Raises BadInput if the template writes an answer's opening that no prompt has.
    """
    named = tokenizer.eos_token
    written = end_of_turn(tokenizer)
    set_end_of_turn(tokenizer)
    require_opening(tokenizer)
    if severity == "off":
        return []
    stopping = ", ".join(repr(tokenizer.convert_ids_to_tokens(id)) for id in sorted(stops))
    others = f"eos_token is {named!r}, generation_config stops at {stopping or 'nothing'}"
    if written is None:
        detail = f"the chat template writes no token after an answer; {others}: {named!r} is taken"
    else:
        token = tokenizer.convert_ids_to_tokens(written)
        detail = f"the chat template ends an answer with {token!r}, which is taken; {others}"
    return [
        {
            "rule": RULE,
            "source": "model",
            "severity": severity,
            "passed": written is not None,
            "found": float(written is None),
            "expected": "a token that the chat template writes after an answer",
            "detail": detail,
        }
    ]


def require_opening(tokenizer: PreTrainedTokenizerBase) -> None:
    """Raise BadInput if the template opens an answer with a text that add_generation_prompt omits.

    A model would have to write the role's name before each reply.
    """
    turn = assistant_turn(tokenizer)
    if turn.before.strip() and not turn.opens:
        raise BadInput(
            f"the chat template in {tokenizer.name_or_path!r} writes {turn.before!r} before an"
            " answer, but add_generation_prompt=True adds nothing to a prompt; expected the same"
            f" there. Add {{% if add_generation_prompt %}}{{{{ {turn.before!r} }}}}{{% endif %}} to"
            " the end of the template."
        )

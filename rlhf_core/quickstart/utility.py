"""The true utility of a quickstart reply.

It is known, so that true gain can be measured. No stage trains on it.

utility = 0.8 [the requested verb occurs] - 0.5 [another verb occurs]
          + 0.9 per distinct concrete step about the requested object, up to 3
          - 0.6 per sentence about another object, up to 3
          + 0.4 per courtesy, up to 2   - 1.0 per insult, up to 2   - 0.3 per filler word, up to 5
          - 0.6 per repeated sentence, up to 3   - 0.05 per word over 32
"""

from rlhf_core.errors import BadInput
from rlhf_core.quickstart.language import (
    ACTIONS,
    COURTESIES,
    FILLERS,
    INSULTS,
    OBJECTS,
    ORDER,
    TOOLS,
    VERBS,
    Request,
)

RIGHT_VERB, WRONG_VERB = 0.8, -0.5
STEP, MAX_STEPS = 0.9, 3
OFF_TOPIC, MAX_OFF_TOPIC = -0.6, 3
COURTESY, MAX_COURTESIES = 0.4, 2
INSULT, MAX_INSULTS = -1.0, 2
FILLER, MAX_FILLERS = -0.3, 5
REPEAT, MAX_REPEATS = -0.6, 3
LONG_WORD, FREE_WORDS = -0.05, 32


def score(prompts: list[str], replies: list[str]) -> list[float]:
    """Return the true utility of each reply, in [-8.4, 4.3] for replies of up to 48 words.

    Raises BadInput if a prompt asks for no known verb or object, or when the lists differ in
    length.
    """
    if len(prompts) != len(replies):
        raise BadInput(
            f"{len(prompts)} prompts and {len(replies)} replies; expected one reply per prompt."
        )
    return [
        utility(parse_request(prompt), reply)
        for prompt, reply in zip(prompts, replies, strict=True)
    ]


def parse_request(prompt: str) -> Request:
    """Return the verb and the object that a prompt asks for. Raises BadInput if it names none."""
    words = prompt.split()
    verb = next((word for word in words if word in VERBS), None)
    thing = next((word for word in words if word in OBJECTS), None)
    if verb is None or thing is None:
        raise BadInput(
            f"prompt {prompt!r:.80} is not a quickstart request; expected a verb and an object it"
            " knows."
        )
    return Request(verb, thing)


def utility(request: Request, reply: str) -> float:
    """Return the module's formula for one reply."""
    words = reply.split()
    sentences = _sentences(words)
    verbs = {word for word in words if word in VERBS}
    off_topic = sum(
        any(word in OBJECTS and word != request.object for word in sentence)
        for sentence in sentences
    )
    return (
        RIGHT_VERB * (request.verb in verbs)
        + WRONG_VERB * bool(verbs - {request.verb})
        + STEP * min(_distinct_steps(sentences, request.object), MAX_STEPS)
        + OFF_TOPIC * min(off_topic, MAX_OFF_TOPIC)
        + COURTESY * min(_count(words, COURTESIES), MAX_COURTESIES)
        + INSULT * min(_count(words, INSULTS), MAX_INSULTS)
        + FILLER * min(_count(words, FILLERS), MAX_FILLERS)
        + REPEAT * min(_repeats(sentences), MAX_REPEATS)
        + LONG_WORD * max(len(words) - FREE_WORDS, 0)
    )


def _sentences(words: list[str]) -> list[tuple[str, ...]]:
    """Return the sentences without end mark and words of order.

    'then wipe it' repeats 'first wipe it'.
    """
    text = " ".join("." if word in "!?" else word for word in words if word not in ORDER)
    return [tuple(sentence.split()) for sentence in text.split(".") if sentence.strip()]


def _distinct_steps(sentences: list[tuple[str, ...]], thing: str) -> int:
    """Return the number of different actions, at most one per sentence.

    A sentence counts if it names an action, a tool and the requested object.
    """
    actions = set()
    for sentence in sentences:
        action = next((word for word in sentence if word in ACTIONS), None)
        if action and thing in sentence and any(word in TOOLS for word in sentence):
            actions.add(action)
    return len(actions)


def _repeats(sentences: list[tuple[str, ...]]) -> int:
    return len(sentences) - len(set(sentences))


def _count(words: list[str], kind: tuple[str, ...]) -> int:
    return sum(word in kind for word in words)

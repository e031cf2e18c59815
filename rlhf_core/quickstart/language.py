"""The quickstart's small language: its words, requests, and replies of any quality.

Words are separated by blanks.
"""

import re
from random import Random
from typing import NamedTuple


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


VERBS = _words(
    "clean paint fix move pack store sell measure decorate restore protect assemble carry "
    "inspect recycle improve"
)
OBJECTS = _words(
    "table chair bike lamp sofa mirror fence boat clock piano window door shelf tent stove "
    "guitar carpet kettle ladder basket bench camera drawer roof"
)
ACTIONS = _words(
    "wipe rub rinse brush dry scrub wrap mark sand loosen tighten lift tap seal trim level"
)
TOOLS = _words("soap water cloth oil tape paper rope glue foam wax wire gloves pliers chalk")
ADJECTIVES = _words("wooden old small heavy dusty broken new fragile cheap large rusty antique")
SETTINGS = (
    "",
    "at home",
    "before lunch",
    "in one hour",
    "on a budget",
    "in the garden",
    "this weekend",
    "without noise",
)
REQUESTS = (
    "please tell me how to {verb} a {adjective} {object} {setting} .",
    "how do i {verb} my {adjective} {object} {setting} ?",
    "i want to {verb} the {adjective} {object} {setting} , what should i do ?",
    "what is the best way to {verb} a {adjective} {object} {setting} ?",
    "explain how someone can {verb} this {adjective} {object} {setting} .",
    "give me steps to {verb} one {adjective} {object} {setting} .",
    "my friend has to {verb} her {adjective} {object} {setting} , any ideas ?",
    "could you show us how we should {verb} our {adjective} {object} {setting} ?",
)

COURTESIES = ("glad", "gladly", "welcome", "thanks", "luck", "happy", "enjoy", "pleasure")
INSULTS = ("stupid", "lazy", "boring", "silly", "idiot", "useless", "annoying", "dumb")
FILLERS = (
    "well",
    "basically",
    "maybe",
    "somehow",
    "depends",
    "whatever",
    "perhaps",
    "anyway",
    "honestly",
    "stuff",
)
KIND_OPENERS = (
    "glad to help .",
    "gladly !",
    "thanks for asking .",
    "happy to help !",
    "it is a pleasure .",
)
RUDE_OPENERS = (
    "what a stupid question .",
    "do not be lazy .",
    "how boring .",
    "that is a silly idea .",
    "you idiot !",
)
KIND_CLOSERS = (
    "you are welcome !",
    "good luck !",
    "enjoy the result .",
    "happy to tell you more .",
)
RUDE_CLOSERS = (
    "now go away , this is useless .",
    "that was annoying .",
    "do not ask such dumb things .",
)
LEADS = (
    "this will {verb} the {object} .",
    "let us {verb} the {object} .",
    "most people {verb} the {object} this way .",
)
STEPS = (
    "{order} {action} the {object} with {tool} .",
    "{order} use {tool} and {action} the {object} .",
    "{order} take {tool} to {action} the {object} .",
)
VAGUE = (
    "well , it depends .",
    "basically you do some stuff .",
    "maybe it works somehow .",
    "honestly people say many things .",
    "perhaps try whatever you like .",
    "anyway , life is like that .",
    "whatever , it is not that hard .",
    "somehow my uncle did all of it once .",
)
ORDER = ("first", "then", "next", "now", "finally")

MAX_PROMPT_WORDS = 24
MAX_REPLY_WORDS = 47  # 48 tokens with end-of-text


class Request(NamedTuple):
    """The verb and the object that a prompt asks for."""

    verb: str
    object: str


def sample_prompt(rng: Random, request: Request) -> str:
    """Return one wording of `request`."""
    text = rng.choice(REQUESTS).format(
        verb=request.verb,
        object=request.object,
        adjective=rng.choice(ADJECTIVES),
        setting=rng.choice(SETTINGS),
    )
    return " ".join(text.split())


def sample_reply(rng: Random, request: Request, *, quality: float) -> str:
    """Return a reply of 1 to MAX_REPLY_WORDS words.

    quality: in [0, 1]; it sets how often each part is a good one. The number of parts does not
    depend on it, so that length says little about quality.
    """
    while True:
        about = _subject(rng, request, quality)
        parts = [
            *_opener(rng, quality),
            *_lead(rng, about, quality),
            *_body(rng, about, quality),
            *_closer(rng, quality),
        ]
        words = " ".join(parts).split()
        if len(words) <= MAX_REPLY_WORDS:
            return " ".join(words)


def distort(rng: Random, reply: str) -> str:
    """Return the reply with most sentences left out, or some of them repeated.

    A policy cheats a naive reward model this way.
    """
    sentences = re.findall(r"[^.!]+[.!]", reply)
    if rng.random() < 0.6:
        kept = sorted(
            rng.sample(range(len(sentences)), rng.randint(1, max(1, len(sentences) // 2)))
        )
        sentences = [sentences[i] for i in kept]
    for _ in range(rng.choice((0, 0, 1, 2, 3))):
        sentences.insert(rng.randint(0, len(sentences)), rng.choice(sentences))
    words = " ".join(sentences).split()
    return " ".join(words) if len(words) <= MAX_REPLY_WORDS else reply


def replace_subject(rng: Random, request: Request, reply: str) -> str:
    """Return the reply with the requested verb or object replaced by another one.

    A reply without that word stays the same.
    """
    asked, words = (request.verb, VERBS) if rng.random() < 0.25 else (request.object, OBJECTS)
    other = rng.choice([word for word in words if word != asked])
    return " ".join(other if word == asked else word for word in reply.split())


def restate(rng: Random, request: Request) -> str:
    """Return one sentence that restates the request."""
    return rng.choice(LEADS).format(verb=request.verb, object=request.object)


def _subject(rng: Random, request: Request, quality: float) -> Request:
    wrong = 0.45 * (1 - quality)
    verb = rng.choice(VERBS) if rng.random() < wrong else request.verb
    return Request(verb, rng.choice(OBJECTS) if rng.random() < wrong else request.object)


def _opener(rng: Random, quality: float) -> list[str]:
    return _framing(rng, quality, kind=KIND_OPENERS, rude=RUDE_OPENERS)


def _closer(rng: Random, quality: float) -> list[str]:
    return _framing(rng, quality, kind=KIND_CLOSERS, rude=RUDE_CLOSERS)


def _framing(
    rng: Random, quality: float, *, kind: tuple[str, ...], rude: tuple[str, ...]
) -> list[str]:
    if rng.random() > 0.5:
        return []
    return [rng.choice(kind if rng.random() < quality else rude)]


def _lead(rng: Random, about: Request, quality: float) -> list[str]:
    if rng.random() > 0.65:
        return []
    return [restate(rng, about) if rng.random() < 0.4 + quality else _vague(rng)]


def _body(rng: Random, about: Request, quality: float) -> list[str]:
    parts: list[str] = []
    for position in range(rng.choice((1, 2, 2, 3, 3, 4))):
        if rng.random() < 0.25 + 0.65 * quality:
            parts.append(_step(rng, about, first=position == 0))
        elif parts and rng.random() < 0.35:
            parts.append(rng.choice(parts))
        else:
            parts.append(_vague(rng))
    return parts


def _step(rng: Random, about: Request, *, first: bool) -> str:
    order = ORDER[0] if first else rng.choice(ORDER[1:])
    return rng.choice(STEPS).format(
        order=order, action=rng.choice(ACTIONS), object=about.object, tool=rng.choice(TOOLS)
    )


def _vague(rng: Random) -> str:
    return rng.choice(VAGUE)


def vocabulary() -> list[str]:
    """Return every word that a prompt or a reply can hold, sorted."""
    fixed = (
        *VERBS,
        *OBJECTS,
        *ACTIONS,
        *TOOLS,
        *ADJECTIVES,
        *SETTINGS,
        *REQUESTS,
        *KIND_OPENERS,
        *RUDE_OPENERS,
        *KIND_CLOSERS,
        *RUDE_CLOSERS,
        *LEADS,
        *STEPS,
        *VAGUE,
        *ORDER,
    )
    return sorted({word for text in fixed for word in text.split() if not word.startswith("{")})

"""A judge behind an OpenAI-compatible endpoint (POST .../chat/completions), by openai's client.

The client tries again after a timeout, a lost connection, and status 408, 409, 429 or 5xx: after
the time that the server's Retry-After asks for, up to two minutes, else after 0.5 s, doubled at
each further try up to 8 s.

Answers are kept between the tries of a stage (rlhf_core/judging/kept_answers.py).

The key is read from the environment when the stage starts. It goes into the request's header only:
not into configuration, metrics, logs, or the text of an error. For this reason no error quotes what
the server sent.
"""

import logging
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http import HTTPStatus
from json import JSONDecodeError
from pathlib import Path
from typing import TYPE_CHECKING

from rlhf_core.config import Judge
from rlhf_core.errors import BadInput, RLHFError, StageFailed
from rlhf_core.judging.instructions import ANSWERS, messages, read_answer
from rlhf_core.judging.kept_answers import KeptAnswers, question_key
from rlhf_core.judging.verdicts import AskJudge, JudgeAnswer

if TYPE_CHECKING:  # the client takes a second to import
    from openai import APIConnectionError, APIStatusError, OpenAI
    from openai.types.chat import ChatCompletion

PASSING = {HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.CONFLICT, HTTPStatus.TOO_MANY_REQUESTS}
NO_QUOTA = "insufficient_quota"  # a 429 that no waiting ends


def endpoint_judge(config: Judge, folder: Path | None = None) -> AskJudge:
    """Return the judge that asks `config.endpoint`.

    folder: keeps the answers, and those of an earlier try are taken from there. Raises BadInput
    when the environment lacks the key.
    """
    key = read_key(config.api_key_env) if config.api_key_env else None
    for library in ("httpx2", "httpcore2"):  # their logs quote the server, and so perhaps the key
        logging.getLogger(library).setLevel(logging.WARNING)

    def ask(prompts: list[str], replies_a: list[str], replies_b: list[str]) -> list[JudgeAnswer]:
        pool = ThreadPoolExecutor(config.parallel)
        kept = KeptAnswers(folder) if folder else None
        with _client(config, key) as client:
            try:
                answer = partial(_answer, partial(_asked, client, config, key), config, kept)
                answers = list(pool.map(answer, prompts, replies_a, replies_b))
            finally:
                pool.shutdown(cancel_futures=True)  # asks no further pairs after a failure
        _require_readable(answers, config)
        return answers

    return ask


def require_answer(config: Judge) -> None:
    """Check that the endpoint answers a question, of a few tokens.

    Raises BadInput for a request that the server refuses, StageFailed when it does not answer.
    """
    key = read_key(config.api_key_env) if config.api_key_env else None
    with _client(config, key) as client:
        _asked(client, config, key, *messages(config, "Name a colour.", "Red.", "Seven."))


def read_key(name: str) -> str:
    """Return the key that the environment variable `name` holds.

    Raises BadInput, naming the variable, when it holds none.
    """
    key = os.environ.get(name, "").strip()
    if not key or not (key.isascii() and key.isprintable()):
        found = "not set" if not key else "not plain ASCII"
        raise BadInput(
            f"judge.api_key_env names {name}, which is {found}; set it to the endpoint's key."
        )
    return key


def _client(config: Judge, key: str | None) -> "OpenAI":
    from openai import DefaultHttpxClient, OpenAI

    return OpenAI(
        api_key=key or "none",  # without one the client takes OPENAI_API_KEY
        base_url=config.endpoint,
        timeout=config.timeout_s,
        max_retries=config.retries,
        http_client=DefaultHttpxClient(follow_redirects=False),
    )


def _require_readable(answers: list[JudgeAnswer], config: Judge) -> None:
    unreadable = sum(answer.outcome is None for answer in answers)
    if unreadable > config.max_unparsable * len(answers):
        raise BadInput(
            f"{unreadable} of {len(answers)} answers of the judge {config.model} are none of"
            f" {', '.join(ANSWERS)}; at most {config.max_unparsable:.0%} may be"
            " (evaluate.judge.max_unparsable). Use a model that follows the instruction, or raise"
            " evaluate.judge.max_tokens for one that reasons first."
        )


def _answer(
    ask: Callable[[str, str], JudgeAnswer],
    config: Judge,
    kept: KeptAnswers | None,
    prompt: str,
    reply_a: str,
    reply_b: str,
) -> JudgeAnswer:
    """Return the kept answer to one pair, else the model's, which is kept."""
    system, user = messages(config, prompt, reply_a, reply_b)
    if kept is None:
        return ask(system, user)
    question = question_key(
        endpoint=config.endpoint,
        model=config.model,
        max_tokens=config.answer_tokens,
        reasons=config.reasons,
        system=system,
        user=user,
    )
    found = kept.get(question)
    if found is None:
        found = ask(system, user)
        kept.add(question, found)
    return found


def _asked(client: "OpenAI", config: Judge, key: str | None, system: str, user: str) -> JudgeAnswer:
    """Return the model's answer to the two messages.

    Raises BadInput for a request that the server refuses, StageFailed when it does not answer.
    """
    from openai import APIConnectionError, APIStatusError, omit

    assert config.model is not None  # an endpoint has a model
    failure: RLHFError
    try:
        return _read(
            client.chat.completions.create(
                model=config.model,
                temperature=0,
                max_tokens=config.answer_tokens,
                messages=[{"role": "system", "content": system}, {"role": "user", "content": user}],
                extra_headers={"Authorization": f"Bearer {key}" if key else omit},
            ),
            config,
        )
    except APIStatusError as error:
        failure = _refusal(error, config)
    except APIConnectionError as error:
        failure = _no_answer(error, type(error.__cause__ or error).__name__, config)
    except (JSONDecodeError, UnicodeDecodeError):  # a body that claims to be JSON and is none
        failure = _no_completion(config)
    raise failure  # outside, without the client's error, which quotes the server, as its context


def _read(completion: "ChatCompletion", config: Judge) -> JudgeAnswer:
    """Return a completion as an answer; the client gives whatever the server has sent."""
    try:
        content = completion.choices[0].message.content
    except (AttributeError, IndexError, KeyError, TypeError):
        raise _no_completion(config) from None
    if content is not None and not isinstance(content, str):
        raise _no_completion(config)
    outcome, reason = read_answer(content, config)
    return JudgeAnswer(outcome, reason, _tokens(completion))


def _tokens(completion: "ChatCompletion") -> tuple[int, int] | None:
    usage = completion.usage
    counts = [getattr(usage, f"{of}_tokens", None) for of in ("prompt", "completion")]
    prompt, completed = (count if isinstance(count, int) else None for count in counts)
    return None if prompt is None or completed is None else (prompt, completed)


def _refusal(error: "APIStatusError", config: Judge) -> RLHFError:
    status = _status(error.status_code)
    if error.code == NO_QUOTA:
        return BadInput(
            f"the judge at {config.endpoint} answered {status}: the account of the key has no quota"
            " left. Raise its limit, or name another key in the variable of"
            " evaluate.judge.api_key_env."
        )
    if error.status_code in PASSING or error.status_code >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return _no_answer(error, status, config)
    return BadInput(
        f"the judge at {config.endpoint} answered {status}; expected 200. Check evaluate.judge:"
        " endpoint, model, and the key in the variable that api_key_env names."
    )


def _no_answer(
    error: "APIStatusError | APIConnectionError", problem: str, config: Judge
) -> StageFailed:
    tries = int(error.request.headers["x-stainless-retry-count"]) + 1
    asked = (
        ""
        if tries > config.retries
        else ", which forbids a further try now (Retry-After above two minutes, x-should-retry)"
    )
    return StageFailed(
        f"the judge at {config.endpoint} gave no answer in"
        f" {tries} {'try' if tries == 1 else 'tries'}; the last ended in {problem}{asked}"
    )


def _no_completion(config: Judge) -> BadInput:
    return BadInput(
        f"the judge at {config.endpoint} sent no chat completion; expected an OpenAI-compatible"
        " endpoint."
    )


def _status(code: int) -> str:
    """Return the status with its standard phrase, since the server's text may quote the key."""
    known = {status.value: status.phrase for status in HTTPStatus}
    return f"{code} {known.get(code, '')}".strip()

"""Keep requests and replies in a reply log."""

import json

import pytest

from rlhf_core.live.chat_bodies import read_reply, read_request

REQUEST = {
    "model": "m",
    "user": "ann@example.com",
    "messages": [
        {"role": "system", "content": "be short"},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "look"},
                {"type": "image_url", "image_url": {"url": "data:..."}},
            ],
        },
    ],
    "temperature": 0.5,
}
REPLY = {
    "id": "chatcmpl-1",
    "model": "m-2",
    "choices": [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "hi there"},
            "finish_reason": "stop",
        }
    ],
    "usage": {"total_tokens": 9},
}


def stream(*parts: str, done: bool = True) -> bytes:
    chunks = [
        {"id": "chatcmpl-1", "model": "m-2", "choices": [{"index": 0, "delta": {"content": part}}]}
        for part in parts
    ]
    chunks.append(
        {"id": "chatcmpl-1", "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
    )
    chunks.append({"id": "chatcmpl-1", "choices": [], "usage": {"total_tokens": 9}})
    lines = [f"data: {json.dumps(chunk)}" for chunk in chunks] + ["data: [DONE]"] * done
    return "\n\n".join(lines).encode()


def test_a_request_keeps_its_texts_and_settings_and_no_name_of_a_user():
    assert read_request(json.dumps(REQUEST).encode(), None) == {
        "messages": [
            {"role": "system", "content": "be short"},
            {"role": "user", "content": "look"},
        ],
        "temperature": 0.5,
    }


def test_a_streamed_reply_is_the_same_record_as_a_whole_one():
    whole = read_reply(json.dumps(REPLY).encode(), None)
    assert whole == read_reply(stream("hi", " there"), None)
    assert whole == {
        "id": "chatcmpl-1",
        "model": "m-2",
        "content": "hi there",
        "finish_reason": "stop",
        "usage": {"total_tokens": 9},
    }


def test_a_stream_that_was_cut_off_is_no_reply():
    with pytest.raises(ValueError, match="cut off"):
        read_reply(stream("hi", done=False), None)


def test_a_line_separator_in_a_text_does_not_end_a_line_of_the_stream():
    text = "one\u2028two\u2029three\u0085four"
    body = stream("?").replace(b'"?"', json.dumps(text, ensure_ascii=False).encode())
    assert read_reply(body, None)["content"] == text


def test_redaction_reaches_every_text():
    asked = read_request(json.dumps(REQUEST).encode(), str.upper)
    assert [message["content"] for message in asked["messages"]] == ["BE SHORT", "LOOK"]
    assert read_reply(stream("hi", " there"), str.upper)["content"] == "HI THERE"


def test_a_redaction_hook_that_returns_no_text_is_an_error():
    with pytest.raises(TypeError, match="returned NoneType, expected str"):
        read_request(json.dumps(REQUEST).encode(), lambda text: None)

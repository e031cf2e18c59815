"""An OpenAI chat server without a model: `python openai_stub.py PORT NAME[,NAME] [--key KEY] ...`.

It answers every conversation with one text, counts its requests, and takes a wanted time for each.
"""

import argparse
import asyncio
import json
import os
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import uvicorn

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("port", type=int)
    parser.add_argument("model")
    parser.add_argument("--key", default=os.environ.get("VLLM_API_KEY", ""))
    parser.add_argument("--reply", default="")
    parser.add_argument("--seconds", type=float, default=0.0)
    args = parser.parse_args()
    uvicorn.run(Stub(args), host="127.0.0.1", port=args.port, log_level="warning", access_log=False)


class Stub:
    def __init__(self, args: argparse.Namespace):
        self.args, self.count, self.running = args, 0, 0

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            while True:
                message = await receive()
                await send({"type": message["type"] + ".complete"})
                if message["type"] == "lifespan.shutdown":
                    return
        pages = {"/health": {}, "/load": {"server_load": self.running}}
        if scope["path"] in pages:
            return await answer(send, 200, pages[scope["path"]])
        authorization = dict(scope["headers"]).get(b"authorization", b"").decode()
        if self.args.key and authorization != f"Bearer {self.args.key}":
            return await answer(send, 401, {"error": "Unauthorized"})
        body = await read(receive)
        if body.get("model") not in self.args.model.split(","):
            return await answer(send, 404, {"error": {"message": f"no model {body.get('model')}"}})
        self.count, self.running = self.count + 1, self.running + 1
        try:
            gone = asyncio.ensure_future(receive())  # the client closes its connection
            if (await asyncio.wait({gone}, timeout=self.args.seconds))[0]:
                return
            gone.cancel()
            await (self.stream if body.get("stream") else self.reply)(send, body)
        finally:
            self.running -= 1

    def text(self, body: dict) -> str:
        return self.args.reply or f"you said {body['messages'][-1]['content']}"

    def frame(self, **parts: object) -> dict:
        return {
            "id": f"chatcmpl-{self.count}",
            "created": int(time.time()),
            "model": self.args.model,
        } | parts

    async def reply(self, send: Send, body: dict) -> None:
        message = {"role": "assistant", "content": self.text(body)}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        usage = {"prompt_tokens": 5, "completion_tokens": 7, "total_tokens": 12}
        found = self.frame(object="chat.completion", choices=[choice], usage=usage)
        await answer(send, 200, found)

    async def stream(self, send: Send, body: dict) -> None:
        headers = [(b"content-type", b"text/event-stream")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        for word in self.text(body).split(" "):
            choice = {"index": 0, "delta": {"role": "assistant", "content": f"{word} "}}
            chunk = self.frame(object="chat.completion.chunk", choices=[choice])
            part = f"data: {json.dumps(chunk)}\n\n".encode()
            await send({"type": "http.response.body", "body": part, "more_body": True})
        await send({"type": "http.response.body", "body": b"data: [DONE]\n\n"})


async def read(receive: Receive) -> dict:
    body, more = b"", True
    while more:
        message = await receive()
        body, more = body + message.get("body", b""), message.get("more_body", False)
    return json.loads(body)


async def answer(send: Send, status: int, content: dict) -> None:
    headers = [(b"content-type", b"application/json")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": json.dumps(content).encode()})


if __name__ == "__main__":
    main()

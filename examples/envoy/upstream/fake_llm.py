#!/usr/bin/env python3
"""A fake LLM provider: answers as five real ones would, and costs what it is told to.

    fake_llm.py [--port 8000] [--exit-with-stdin]

Prints `listening on 127.0.0.1:PORT` as its first line (`--port 0` takes a free port), listens on
loopback only, and stops on SIGTERM, on SIGINT and, if asked to, when its stdin closes.

    POST /v1/chat/completions                     OpenAI chat
    POST /v1/responses                            OpenAI Responses
    POST /v1/messages                             Anthropic
    POST /v1beta/models/NAME:generateContent      Gemini
    POST /v1beta/models/NAME:streamGenerateContent?alt=sse
    POST /model/NAME/converse                     Bedrock Converse
    POST /model/NAME/converse-stream              the same, as AWS's event stream
    GET  /healthz                                 200
    GET  /fake/stats                              {"requests", "open", "finished", "hung_up"}

`"stream": true` in the body asks for server-sent events, except from Gemini and Bedrock, where the
path does.
Request headers say what happens; all are optional:

    x-fake-input-tokens        prompt tokens that no cache served; else the body's length / 4
    x-fake-cache-read-tokens   prompt tokens read from a cache; else 0
    x-fake-cache-write-tokens  prompt tokens written to a cache; else 0
    x-fake-output-tokens       all output tokens; else the body's max_tokens, else 20
    x-fake-reasoning-tokens    how many of the output tokens were reasoning; else 0
    x-fake-usage: none         leave the usage out of the answer
    x-fake-text-bytes          length of the answer's text
    x-fake-chunks              pieces that a streamed text comes in; else 4
    x-fake-delay-ms            pause before each piece (or before a whole answer)
    x-fake-stall-after         after that many pieces, send nothing more until the client goes away
    x-fake-status              answer with that error status

The first four and the output are disjoint, and each provider sums them up in its own way: OpenAI's
and Gemini's prompt counts contain the cached tokens, Anthropic's and Bedrock's do not; OpenAI's,
Anthropic's and Bedrock's output counts contain reasoning, Gemini's candidates count does not.
"""

import argparse
import json
import os
import select
import signal
import socket
import struct
import sys
import threading
import zlib
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

LONGEST_BODY = 64 << 20


class BadRequest(Exception):
    """The request makes no sense; the text says why."""


class HungUp(Exception):
    """The client went away before the answer was complete."""


@dataclass
class Plan:
    """What to answer: read once from the request, the same for every provider."""

    model: str
    stream: bool
    input: int
    cache_read: int
    cache_write: int
    output: int
    reasoning: int
    usage: bool
    pieces: list
    delay: float
    stall_after: int | None
    status: int

    @classmethod
    def read(cls, headers, body, length, model, stream):
        def number(name, default):
            text = headers.get(name)
            if text is None:
                return default
            if not text.isascii() or not text.isdigit():
                raise BadRequest(f"{name} must be a whole number")
            return int(text)

        generation = body.get("generationConfig")
        inference = body.get("inferenceConfig")
        limits = [
            body.get("max_completion_tokens"),
            body.get("max_output_tokens"),
            body.get("max_tokens"),
            inference.get("maxTokens") if isinstance(inference, dict) else None,
            generation.get("maxOutputTokens") if isinstance(generation, dict) else None,
        ]
        output = number("x-fake-output-tokens", next((n for n in limits if isinstance(n, int)), 20))
        size = number("x-fake-text-bytes", min(4 * output, 2000))
        text = ("toll " * (size // 5 + 1))[:size]
        count = max(1, number("x-fake-chunks", 4))
        step = -(-len(text) // count)
        return cls(
            model=model,
            stream=stream,
            input=number("x-fake-input-tokens", max(1, length // 4)),
            cache_read=number("x-fake-cache-read-tokens", 0),
            cache_write=number("x-fake-cache-write-tokens", 0),
            output=output,
            reasoning=min(number("x-fake-reasoning-tokens", 0), output),
            usage=headers.get("x-fake-usage") != "none",
            pieces=[text[i * step : (i + 1) * step] for i in range(count)],
            delay=number("x-fake-delay-ms", 0) / 1000,
            stall_after=number("x-fake-stall-after", None),
            status=number("x-fake-status", 200),
        )

    @property
    def text(self):
        return "".join(self.pieces)

    @property
    def prompt(self):
        """The whole prompt, cached or not."""
        return self.input + self.cache_read + self.cache_write


class OpenAiChat:
    """Chat completions. The stream's usage comes last, in a chunk that has no choices."""

    json_type = "application/json"
    sse_type = "text/event-stream; charset=utf-8"

    @staticmethod
    def usage(plan):
        return {
            "prompt_tokens": plan.prompt,
            "completion_tokens": plan.output,
            "total_tokens": plan.prompt + plan.output,
            "prompt_tokens_details": {
                "cached_tokens": plan.cache_read,
                "cache_write_tokens": plan.cache_write,
                "audio_tokens": 0,
            },
            "completion_tokens_details": {"reasoning_tokens": plan.reasoning, "audio_tokens": 0},
        }

    @classmethod
    def answer(cls, plan):
        message = {"role": "assistant", "content": plan.text, "refusal": None}
        answer = {
            "id": "chatcmpl-fake",
            "object": "chat.completion",
            "created": 1700000000,
            "model": plan.model,
            "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        }
        return answer | ({"usage": cls.usage(plan)} if plan.usage else {})

    @classmethod
    def events(cls, plan):
        def chunk(choices, usage=None):
            data = {
                "id": "chatcmpl-fake",
                "object": "chat.completion.chunk",
                "created": 1700000000,
                "model": plan.model,
                "choices": choices,
            }
            return sse(data | ({"usage": usage} if plan.usage else {}))

        def choice(delta, finish=None):
            return [{"index": 0, "delta": delta, "finish_reason": finish}]

        before = [chunk(choice({"role": "assistant", "content": ""}))]
        middle = [chunk(choice({"content": piece})) for piece in plan.pieces]
        after = [chunk(choice({}, "stop"))]
        if plan.usage:
            after.append(chunk([], cls.usage(plan)))
        return before, middle, after + [b"data: [DONE]\n\n"]

    @staticmethod
    def error(status, text):
        return {"error": {"message": text, "type": "fake_error", "param": None, "code": str(status)}}


class OpenAiResponses(OpenAiChat):
    """Responses. The stream's last event repeats the whole answer, and so can be large."""

    @staticmethod
    def usage(plan):
        return {
            "input_tokens": plan.prompt,
            "input_tokens_details": {"cached_tokens": plan.cache_read},
            "output_tokens": plan.output,
            "output_tokens_details": {"reasoning_tokens": plan.reasoning},
            "total_tokens": plan.prompt + plan.output,
        }

    @classmethod
    def answer(cls, plan):
        part = {"type": "output_text", "text": plan.text, "annotations": []}
        message = {"type": "message", "id": "msg_fake", "role": "assistant", "content": [part]}
        return cls.response(plan, "completed", [message], cls.usage(plan) if plan.usage else None)

    @staticmethod
    def response(plan, status, output, usage):
        return {
            "id": "resp_fake",
            "object": "response",
            "created_at": 1700000000,
            "status": status,
            "model": plan.model,
            "output": output,
            "usage": usage,
        }

    @classmethod
    def events(cls, plan):
        def event(kind, number, **fields):
            return sse({"type": kind, "sequence_number": number} | fields, name=kind)

        started = cls.response(plan, "in_progress", [], None)
        before = [
            event("response.created", 0, response=started),
            event("response.in_progress", 1, response=started),
        ]
        where = {"item_id": "msg_fake", "output_index": 0, "content_index": 0}
        middle = [
            event("response.output_text.delta", 2 + i, delta=piece, **where)
            for i, piece in enumerate(plan.pieces)
        ]
        last = 2 + len(middle)
        return before, middle, [event("response.completed", last, response=cls.answer(plan))]


class Anthropic:
    """Messages. The input is told at the start of a stream, the final output near its end."""

    json_type = "application/json"
    sse_type = "text/event-stream; charset=utf-8"

    @staticmethod
    def usage(plan, output):
        return {
            "input_tokens": plan.input,
            "cache_creation_input_tokens": plan.cache_write,
            "cache_read_input_tokens": plan.cache_read,
            "output_tokens": output,
            "service_tier": "standard",
        }

    @classmethod
    def message(cls, plan, content, stop, output):
        message = {
            "id": "msg_fake",
            "type": "message",
            "role": "assistant",
            "model": plan.model,
            "content": content,
            "stop_reason": stop,
            "stop_sequence": None,
        }
        return message | ({"usage": cls.usage(plan, output)} if plan.usage else {})

    @classmethod
    def answer(cls, plan):
        return cls.message(plan, [{"type": "text", "text": plan.text}], "end_turn", plan.output)

    @classmethod
    def events(cls, plan):
        def event(kind, **fields):
            return sse({"type": kind} | fields, name=kind)

        before = [
            event("message_start", message=cls.message(plan, [], None, min(1, plan.output))),
            event("content_block_start", index=0, content_block={"type": "text", "text": ""}),
            event("ping"),
        ]
        middle = [
            event("content_block_delta", index=0, delta={"type": "text_delta", "text": piece})
            for piece in plan.pieces
        ]
        end = {"delta": {"stop_reason": "end_turn", "stop_sequence": None}}
        if plan.usage:
            end["usage"] = {"output_tokens": plan.output}
        after = [
            event("content_block_stop", index=0),
            event("message_delta", **end),
            event("message_stop"),
        ]
        return before, middle, after

    @staticmethod
    def error(status, text):
        return {"type": "error", "error": {"type": "fake_error", "message": text}}


class Gemini:
    """generateContent. Every streamed chunk tells the usage so far; lines end in CR LF."""

    json_type = "application/json; charset=UTF-8"
    sse_type = "text/event-stream"

    @staticmethod
    def chunk(plan, text, finish, share):
        part = {"content": {"role": "model", "parts": [{"text": text}]}, "index": 0}
        if finish:
            part["finishReason"] = "STOP"
        answer = {"candidates": [part], "modelVersion": plan.model, "responseId": "fake"}
        if not plan.usage:
            return answer
        visible = int((plan.output - plan.reasoning) * share)
        usage = {
            "promptTokenCount": plan.prompt,
            "candidatesTokenCount": visible,
            "totalTokenCount": plan.prompt + plan.reasoning + visible,
            "promptTokensDetails": [{"modality": "TEXT", "tokenCount": plan.prompt}],
        }
        # Gemini leaves out what is zero.
        if plan.cache_read:
            usage["cachedContentTokenCount"] = plan.cache_read
        if plan.reasoning:
            usage["thoughtsTokenCount"] = plan.reasoning
        return answer | {"usageMetadata": usage}

    @classmethod
    def answer(cls, plan):
        return cls.chunk(plan, plan.text, True, 1)

    @classmethod
    def events(cls, plan):
        count = len(plan.pieces)
        chunks = [
            sse(cls.chunk(plan, piece, i == count, i / count), line_end="\r\n")
            for i, piece in enumerate(plan.pieces, start=1)
        ]
        return [], chunks, []

    @staticmethod
    def error(status, text):
        return {"error": {"code": status, "message": text, "status": "FAKE_ERROR"}}


class Bedrock:
    """Converse. A stream is binary, and its last message has the usage."""

    json_type = "application/json"
    sse_type = "application/vnd.amazon.eventstream"

    @staticmethod
    def usage(plan):
        return {
            "inputTokens": plan.input,
            "outputTokens": plan.output,
            "totalTokens": plan.prompt + plan.output,
            "cacheReadInputTokens": plan.cache_read,
            "cacheWriteInputTokens": plan.cache_write,
        }

    @classmethod
    def answer(cls, plan):
        answer = {
            "output": {"message": {"role": "assistant", "content": [{"text": plan.text}]}},
            "stopReason": "end_turn",
            "metrics": {"latencyMs": 1},
        }
        return answer | ({"usage": cls.usage(plan)} if plan.usage else {})

    @classmethod
    def events(cls, plan):
        before = [aws_event("messageStart", {"role": "assistant"})]
        middle = [
            aws_event("contentBlockDelta", {"contentBlockIndex": 0, "delta": {"text": piece}})
            for piece in plan.pieces
        ]
        end = {"metrics": {"latencyMs": 1}} | ({"usage": cls.usage(plan)} if plan.usage else {})
        after = [
            aws_event("contentBlockStop", {"contentBlockIndex": 0}),
            aws_event("messageStop", {"stopReason": "end_turn"}),
            aws_event("metadata", end),
        ]
        return before, middle, after

    @staticmethod
    def error(status, text):
        return {"message": text}


def aws_event(name, data):
    """One message of AWS's event stream: its lengths, headers, payload, and their checksums."""
    payload = compact(data).encode()
    headers = b""
    for key, value in [
        (":event-type", name),
        (":content-type", "application/json"),
        (":message-type", "event"),
    ]:
        headers += bytes([len(key)]) + key.encode() + b"\x07"
        headers += struct.pack(">H", len(value)) + value.encode()
    message = struct.pack(">II", 16 + len(headers) + len(payload), len(headers))
    message += struct.pack(">I", zlib.crc32(message)) + headers + payload
    return message + struct.pack(">I", zlib.crc32(message))


def sse(data, name=None, line_end="\n"):
    """One server-sent event."""
    lines = ([f"event: {name}"] if name else []) + [f"data: {compact(data)}", "", ""]
    return line_end.join(lines).encode()


def compact(data):
    return json.dumps(data, separators=(",", ":"))


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version = "fake-llm"

    def setup(self):
        super().setup()
        # Each event must leave at once, whatever the one before is waiting for.
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def do_GET(self):
        if self.path == "/healthz":
            return self.send_json(200, {"status": "ok"})
        if self.path == "/fake/stats":
            return self.send_json(200, self.server.stats.snapshot())
        return self.send_json(404, {"error": "no such page"})

    def do_POST(self):
        stats = self.server.stats
        stats.add(requests=1, open=1)
        try:
            self.answer()
            stats.add(finished=1)
        except (HungUp, ConnectionError):
            self.close_connection = True
            stats.add(hung_up=1)
        finally:
            stats.add(open=-1)

    def answer(self):
        raw = self.read_body()
        url = urlsplit(self.path)
        provider, model, stream = route(url.path, parse_qs(url.query))
        if provider is None:
            return self.send_json(404, OpenAiChat.error(404, f"no such page: {url.path}"))
        try:
            body = json.loads(raw)
            if not isinstance(body, dict):
                raise BadRequest("the body must be a JSON object")
            if model is None:
                model, stream = str(body.get("model", "fake")), body.get("stream") is True
            plan = Plan.read(self.headers, body, len(raw), model, stream)
        except (BadRequest, UnicodeDecodeError, json.JSONDecodeError) as error:
            return self.send_json(400, provider.error(400, str(error)), provider.json_type)
        if plan.status != 200:
            error = provider.error(plan.status, f"told to answer {plan.status}")
            return self.send_json(plan.status, error, provider.json_type)
        if plan.stream:
            return self.send_events(provider, plan)
        self.wait(plan.delay)
        return self.send_json(200, provider.answer(plan), provider.json_type)

    def read_body(self):
        if "chunked" not in self.headers.get("transfer-encoding", ""):
            return self.rfile.read(min(int(self.headers.get("content-length", 0)), LONGEST_BODY))
        body = b""
        while (size := int(self.rfile.readline().split(b";")[0], 16)) and len(body) < LONGEST_BODY:
            body += self.rfile.read(size)
            self.rfile.readline()
        while self.rfile.readline().strip():
            pass  # trailers
        return body

    def send_json(self, status, data, content_type="application/json"):
        body = compact(data).encode()
        self.send_response(status)
        self.send_header("content-type", content_type)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def send_events(self, provider, plan):
        self.send_response(200)
        self.send_header("content-type", provider.sse_type)
        self.send_header("cache-control", "no-cache")
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        before, middle, after = provider.events(plan)
        for event in before:
            self.send_chunk(event)
        for number, event in enumerate(middle):
            if number == plan.stall_after:
                self.wait(None)
            self.wait(plan.delay)
            self.send_chunk(event)
        if len(middle) == plan.stall_after:
            self.wait(None)
        for event in after:
            self.send_chunk(event)
        self.wfile.write(b"0\r\n\r\n")

    def send_chunk(self, data):
        self.wfile.write(b"%x\r\n%b\r\n" % (len(data), data))

    def wait(self, seconds):
        """Waits, for ever if `seconds` is None, but not longer than the client stays."""
        if seconds == 0:
            return
        readable, _, _ = select.select([self.connection], [], [], seconds)
        # Nothing more is due from a client that waits for its answer: readable means gone.
        if readable:
            raise HungUp

    def log_message(self, *_):
        pass


def route(path, query):
    """The provider that serves a path, and what some say in the path: the model, and whether to stream."""
    if path.startswith("/v1beta/models/"):
        model, _, method = path.removeprefix("/v1beta/models/").partition(":")
        if method == "generateContent":
            return Gemini, model, False
        if method == "streamGenerateContent" and query.get("alt") == ["sse"]:
            return Gemini, model, True
    if path.startswith("/model/"):
        model, _, method = path.removeprefix("/model/").partition("/")
        if method in ("converse", "converse-stream"):
            return Bedrock, model, method == "converse-stream"
    paths = {
        "/v1/chat/completions": OpenAiChat,
        "/v1/responses": OpenAiResponses,
        "/v1/messages": Anthropic,
    }
    return paths.get(path), None, False


class Stats:
    """What happened so far, for those who must know that a hang-up was noticed."""

    def __init__(self):
        self.lock = threading.Lock()
        self.counts = {"requests": 0, "open": 0, "finished": 0, "hung_up": 0}

    def add(self, **changes):
        with self.lock:
            for name, change in changes.items():
                self.counts[name] += change

    def snapshot(self):
        with self.lock:
            return dict(self.counts)


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256

    def handle_error(self, request, client_address):
        # A client that hangs up while idle is no news.
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


def watch_stdin(stop):
    # Not sys.stdin: a thread that still holds its lock at the end makes the interpreter abort.
    while os.read(0, 4096):
        pass
    stop()


def main():
    parser = argparse.ArgumentParser(description="A fake LLM provider on loopback.")
    parser.add_argument("--port", type=int, default=8000, help="0 takes a free port")
    parser.add_argument("--exit-with-stdin", action="store_true", help="stop when stdin closes")
    arguments = parser.parse_args()

    server = Server(("127.0.0.1", arguments.port), Handler)
    server.stats = Stats()

    def stop(*_):
        # shutdown() waits for serve_forever(), which the signal interrupted: not from its thread.
        threading.Thread(target=server.shutdown, daemon=True).start()

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    if arguments.exit_with_stdin:
        threading.Thread(target=watch_stdin, args=[stop], daemon=True).start()

    print(f"listening on 127.0.0.1:{server.server_port}", flush=True)
    server.serve_forever(poll_interval=0.05)
    server.socket.close()


if __name__ == "__main__":
    main()

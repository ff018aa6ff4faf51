"""A small honest stand-in for an SGLang server: its language is arithmetic, and it misbehaves exactly as it is told."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from typing import Any

VOCAB, ROWS = 50, 64
WELL, SLOW, FAILING, GARBAGE, FEWER, OUTSIDE, SHORT, DYING = (
    "well",
    "slow",
    "failing",
    "garbage",
    "fewer",
    "outside",
    "short",
    "dying",
)


def continuation(token_ids: list[int], sampling: dict[str, Any]) -> tuple[list[int], dict[str, Any]]:
    """(new ids, finish_reason): each id follows from the two before it, as far as the allowed ones go."""
    first, stop, *stop_ids = (sampling.get("custom_params") or {}).get("allowed") or [0, VOCAB]
    ids, made = list(token_ids), []
    while len(made) < sampling["max_new_tokens"]:
        made.append(first + (ids[-1] * 7 + len(ids)) % (stop - first))
        if stop_ids and made[-1] % 5 == 0:
            made[-1] = stop_ids[0]
        ids.append(made[-1])
        if made[-1] in sampling.get("stop_token_ids", ()):
            return made, {"type": "stop", "matched": made[-1]}
    return made, {"type": "length", "length": len(made)}


def nats(token_ids: list[int]) -> list[float]:
    """Log-probability of each id but the first."""
    return [-0.01 * (a + 2 * b) for a, b in pairwise(token_ids)]


class SmallServer(ThreadingHTTPServer):
    """Counts what it is asked; `behaviour` is looked at for every POST."""

    daemon_threads = True

    def __init__(self, info: dict[str, Any], behaviour: Callable[[int], str] = lambda number: WELL) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.info, self.behaviour = info, behaviour
        self.lock, self.posts, self.inside, self.most_inside = threading.Lock(), 0, 0, 0
        self.bodies: list[dict[str, Any]] = []
        self.refuses: Callable[[list[int]], int] = lambda token_ids: 0
        """Status for a prompt, 0: take it."""
        self.delay_s = 0.0
        self.routes = False
        """Whether it answers as SGLang's router does: one call a POST, no /server_info, no logit processors."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up is no news."""


class _Handler(BaseHTTPRequestHandler):
    server: SmallServer
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        if self.server.routes:
            models = {"data": [{"id": self.server.info["served_model_name"]}]}
            self._answer(404 if self.path == "/server_info" else 200, models)
            return
        self._answer(200, self.server.info if self.path == "/server_info" else {})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        prompts = body["input_ids"]
        prompts = prompts if isinstance(prompts[0], list) else [prompts]
        with self.server.lock:
            self.server.posts += 1
            how = self.server.behaviour(self.server.posts)
            self.server.bodies.append(body)
            self.server.inside += len(prompts)
            self.server.most_inside = max(self.server.most_inside, self.server.inside)
        time.sleep(3600.0 if how == SLOW else self.server.delay_s)
        with self.server.lock:
            self.server.inside -= len(prompts)
        if how == DYING:
            self.close_connection = True
            return
        if refused := max(map(self.server.refuses, prompts)):
            self._answer(refused, {"error": {"message": "not this one"}})
        elif how == FAILING:
            self._answer(500, {"error": "no"})
        elif how == GARBAGE:
            self._raw(200, b"<html>it works</html>")
        elif body.get("stream"):
            self._stream(body)
        else:
            self._answer(200, self._answers(body, how))

    def _answers(self, body: dict[str, Any], how: str) -> Any:
        if not self.server.routes:
            return _spoilt([self._one(body, place) for place in range(len(body["input_ids"]))], how)
        assert isinstance(body["sampling_params"], dict), "the router takes one call a POST"
        body["sampling_params"].pop("custom_params", None)
        return self._one({name: [value] for name, value in body.items()}, 0)

    def _one(self, body: dict[str, Any], place: int) -> dict[str, Any]:
        sampling, prompt = body["sampling_params"][place], body["input_ids"][place]
        if body.get("return_logprob"):
            scored = [None, *nats(prompt)[body["logprob_start_len"][place] :]]
            meta = {"input_token_logprobs": [[value, 0, None] for value in scored]}
            return {"output_ids": [], "meta_info": meta | {"finish_reason": {"type": "length", "length": 0}}}
        made, reason = continuation(prompt, sampling)
        return {"output_ids": made, "meta_info": {"finish_reason": reason, "completion_tokens": len(made)}}

    def _stream(self, body: dict[str, Any]) -> None:
        made, reason = continuation(body["input_ids"], body["sampling_params"])
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        breaks = self.server.behaviour(self.server.posts) == SHORT
        for count in range(1, len(made) + 1 - 2 * breaks):
            last = reason if count == len(made) else None
            meta = {"completion_tokens": count, "finish_reason": last}
            event = json.dumps({"output_ids": made[:count], "meta_info": meta})
            self.wfile.write(f"data: {event}\n\n".encode())
        self.wfile.write(b"" if breaks else b"data: [DONE]\n\n")
        self.close_connection = True

    def _answer(self, status: int, value: Any) -> None:
        self._raw(status, json.dumps(value).encode())

    def _raw(self, status: int, payload: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(payload)))
        self.end_headers()
        self.wfile.write(payload)


def _spoilt(answers: list[dict[str, Any]], how: str) -> Any:
    if how == FEWER:
        return answers[:-1]
    if how == OUTSIDE:
        answers[0]["output_ids"] = [ROWS]
    if how == SHORT:
        answers[0]["output_ids"] = answers[0]["output_ids"][:-1]
        answers[0]["meta_info"]["finish_reason"] = {"type": "length"}
        answers[0]["meta_info"]["input_token_logprobs"] = answers[0]["meta_info"].get("input_token_logprobs", [])[:-1]
    return answers


@contextmanager
def serving(*servers: SmallServer) -> Iterator[None]:
    """Run the servers for the while."""
    for server in servers:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    try:
        yield
    finally:
        for server in servers:
            server.shutdown()
            server.server_close()

"""Many calls to a few servers: bounded in flight, sent again elsewhere when a server fails, back-off and health checks.

A server that refuses, does not answer or answers nonsense is set aside, its calls go to the others, and it comes back
once it is healthy and still serves the same model. Knows HTTP and SGLang's addresses, not what is generated.
"""

from __future__ import annotations

import asyncio
import queue
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count, islice
from typing import Any

import httpx

GROUP = 8
"""Calls in one POST: fewer are slower on small models (measured in docs/results.md), more wait for their longest."""
ROUTER = "router"
"""Version that stands for a router: its servers are not told apart, and it takes one call a POST."""
ATTEMPTS = 5
"""A call that failed so often while others went well is given up."""
_CONNECT_S, _PROBE_S = 5.0, 30.0
_FIRST_DELAY_S, _LONGEST_DELAY_S = 0.25, 20.0


class NonsenseError(Exception):
    """An answer that no sound server gives; the text says what, got and wanted."""


@dataclass(frozen=True)
class Refused:
    """What comes back for a call that a sound server would not take."""

    reason: str


@dataclass
class Call:
    """One body for /generate and how to read its answer."""

    index: int
    """Place by which the caller knows the call again."""
    body: dict[str, Any]
    read: Callable[[Any], Any]
    """Makes the result of the answer; raises NonsenseError."""
    failures: int = 0
    answers_before: int = 0
    """Answers to other calls that had come when it failed first."""


@dataclass
class Server:
    """One server and how it does."""

    url: str
    up: asyncio.Event = field(default_factory=asyncio.Event)
    failures: int = 0
    """Since its last good answer."""
    error: str = ""
    """The last one."""


class Servers:
    """The servers of one engine, all with the same model."""

    def __init__(
        self,
        urls: Sequence[str],
        *,
        in_flight: int,
        timeout_s: float,
        patience_s: float,
        check: Callable[[str, dict[str, Any]], None],
    ) -> None:
        """check: raises ValueError when the /server_info of a url is not that of the model; see EngineConfig."""
        self.urls = [url.rstrip("/") for url in urls]
        self.in_flight, self.timeout_s, self.patience_s, self.check = in_flight, timeout_s, patience_s, check
        self.group = max(1, min(GROUP, in_flight))
        self.counts: Counter[str] = Counter()
        """failed_calls, lost_servers, returned_servers: what went wrong on the way and was mended."""

    def infos(self) -> dict[str, dict[str, Any]]:
        """The /server_info of every server that answers now, each checked; waits for the first of them.

        Raises ConnectionError when none answers within patience_s, ValueError when one serves another model.
        """
        end = time.monotonic() + self.patience_s
        while True:
            found, errors = {}, []
            for url in self.urls:
                try:
                    with httpx.Client(timeout=_PROBE_S, trust_env=False) as client:
                        response = client.get(f"{url}/server_info")
                        found[url] = (
                            _routed(client.get(f"{url}/v1/models")) if _is_router(response) else _info(response)
                        )
                except (httpx.HTTPError, NonsenseError) as error:
                    errors.append(f"{url}: {_line(error)}")
            for url, info in found.items():
                self.check(url, info)
            if any(info.get("version") == ROUTER for info in found.values()):
                self.group = 1
            if found:
                return found
            if time.monotonic() > end:
                raise ConnectionError(_nobody(self.patience_s, errors))
            time.sleep(1.0)

    def run(self, calls: Iterable[Call]) -> Iterator[tuple[Call, Any]]:
        """(call, result) as answers come, in any order; result: what call.read made, or Refused.

        Calls are pulled as room comes free. Raises ConnectionError when no server was well for patience_s.
        """
        source, outstanding, more = iter(calls), 0, True
        room = len(self.urls) * self.in_flight
        with _round(self) as (submit, answers):
            while more or outstanding:
                while more and (not outstanding or room - outstanding >= self.group):
                    group = list(islice(source, self.group))
                    more = len(group) == self.group
                    if not group:
                        break
                    submit(group)
                    outstanding += len(group)
                if not outstanding:
                    return
                answer = answers.get()
                if isinstance(answer, BaseException):
                    raise answer
                outstanding -= len(answer)
                yield from answer

    @contextmanager
    def stream(self, body: dict[str, Any], url: str) -> Iterator[Iterator[str]]:
        """Lines of one streamed answer. Raises httpx.HTTPError or NonsenseError when the server fails."""
        timeout = httpx.Timeout(self.timeout_s, connect=_CONNECT_S)
        asked = body | {"stream": True}
        with httpx.stream("POST", f"{url}/generate", json=asked, timeout=timeout, trust_env=False) as response:
            if response.status_code != 200:
                response.read()
                raise NonsenseError(_status(response))
            yield response.iter_lines()


Answers = list[tuple[Call, Any]]


@contextmanager
def _round(servers: Servers) -> Iterator[tuple[Callable[[list[Call]], None], queue.SimpleQueue[Any]]]:
    """(submit a group, queue of Answers or of the exception that ended all): an event loop in a thread of its own,
    so that answers come in while the caller works, and callers may have a loop themselves."""
    answers: queue.SimpleQueue[Answers | BaseException] = queue.SimpleQueue()
    loop = asyncio.new_event_loop()
    work = _Round(servers, answers)
    task = loop.create_task(work.main())

    def run() -> None:
        try:
            loop.run_until_complete(task)
        except asyncio.CancelledError:
            pass
        except BaseExceptionGroup as group:
            answers.put(group.exceptions[0])
        except BaseException as error:
            answers.put(error)
        finally:
            loop.close()

    thread = threading.Thread(target=run, name="servers", daemon=True)
    thread.start()
    try:
        yield (lambda group: _soon(loop, work.put, group)), answers
    finally:
        _soon(loop, task.cancel)  # what is in flight too: a server drops what nobody waits for
        thread.join()


def _soon(loop: asyncio.AbstractEventLoop, function: Callable[..., object], *args: Any) -> None:
    try:
        loop.call_soon_threadsafe(function, *args)
    except RuntimeError:  # the loop ended with an exception, which waits in the queue
        return


class _Round:
    """One run of calls over the servers; everything here lives in the event loop."""

    def __init__(self, servers: Servers, answers: queue.SimpleQueue[Answers | BaseException]) -> None:
        self.servers, self.answers = servers, answers
        self.waiting: asyncio.PriorityQueue[tuple[int, int, list[Call]]] = asyncio.PriorityQueue()
        self.ticket = count()
        self.down_since: float | None = None
        """When the last server went down; None after any good answer."""
        self.num_answers = 0

    async def main(self) -> None:
        """Look at all servers, then work until cancelled."""
        self.down_since = time.monotonic()
        slots = max(1, self.servers.in_flight // self.servers.group)
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=slots * len(self.servers.urls))
        timeout = httpx.Timeout(self.servers.timeout_s, connect=_CONNECT_S, pool=None)
        client = httpx.AsyncClient(limits=limits, timeout=timeout, trust_env=False)  # servers lie behind no proxy
        async with client as self.client, asyncio.TaskGroup() as self.tasks:
            self.all = [Server(url) for url in self.servers.urls]
            for server in self.all:
                self.tasks.create_task(self._bring_back(server))
                for _ in range(slots):
                    self.tasks.create_task(self._work(server))

    def put(self, group: list[Call], again: bool = False) -> None:
        """Put a group in line, one that is sent again before all others."""
        self.waiting.put_nowait((0 if again else 1, next(self.ticket), group))

    async def _work(self, server: Server) -> None:
        """One of the places at a server: take a group, send it, hand on what came."""
        while True:
            await server.up.wait()
            _, _, group = await self.waiting.get()
            if not server.up.is_set():
                self.put(group, again=True)
                continue
            try:
                made = await self._send(server, group)
            except (httpx.HTTPError, NonsenseError) as error:
                self._failed(server, group, error)
                continue
            if (
                server.up.is_set()
            ):  # else a late answer to an earlier call: the server stays aside until it was looked at
                server.failures = 0
            self.down_since = None
            self.num_answers += 1
            if made:
                self.answers.put(made)

    async def _send(self, server: Server, group: list[Call]) -> Answers:
        bodies = [call.body for call in group]
        alone = self.servers.group == 1
        merged = bodies[0] if alone else {name: [body[name] for body in bodies] for name in bodies[0]}
        response = await self.client.post(f"{server.url}/generate", json=merged)
        if response.status_code == 400:  # one of them, and the answer does not say which
            if len(group) == 1:
                self.servers.counts["refused"] += 1
                return [(group[0], Refused(_status(response)))]
            for call in group:
                self.put([call], again=True)
            return []
        answers = _json(response)
        answers = [answers] if isinstance(answers, dict) else answers
        if not isinstance(answers, list) or len(answers) != len(group):
            got = f"{len(answers)} of them" if isinstance(answers, list) else type(answers).__name__
            raise NonsenseError(f"got {got}, wanted {len(group)} answers")
        return [(call, call.read(answer)) for call, answer in zip(group, answers, strict=True)]

    def _failed(self, server: Server, group: list[Call], error: Exception) -> None:
        """Set the server aside and put its calls back, one by one: one of them may be what it fails on."""
        server.error = _line(error)
        self.servers.counts["failed_calls"] += len(group)
        if server.up.is_set():
            server.failures += 1
            server.up.clear()
            self.servers.counts["lost_servers"] += 1
            if not any(other.up.is_set() for other in self.all):
                self.down_since = self.down_since or time.monotonic()
            self.tasks.create_task(self._bring_back(server))
        for call in group:
            call.failures += 1
            call.answers_before = call.answers_before if call.failures > 1 else self.num_answers
            if call.failures >= ATTEMPTS and self.num_answers > call.answers_before:
                reason = f"given up after {call.failures} attempts, last at {server.url}: {server.error}"
                self.servers.counts["refused"] += 1
                self.answers.put([(call, Refused(reason))])
            else:
                self.put([call], again=True)

    async def _bring_back(self, server: Server) -> None:
        """Look at a server, again and again if need be, until it is well and serves the model."""
        while True:
            if server.failures:
                longest = min(_LONGEST_DELAY_S, _FIRST_DELAY_S * 2.0**server.failures)
                await asyncio.sleep(longest * random.uniform(0.5, 1.0))
            self._check_patience()
            try:
                if server.failures:
                    health = await self.client.get(f"{server.url}/health", timeout=_PROBE_S)
                    if health.status_code != 200:
                        raise NonsenseError(_status(health))
                response = await self.client.get(f"{server.url}/server_info", timeout=_PROBE_S)
                if _is_router(response):
                    info = _routed(await self.client.get(f"{server.url}/v1/models", timeout=_PROBE_S))
                else:
                    info = _info(response)
            except (httpx.HTTPError, NonsenseError) as error:
                server.failures, server.error = server.failures + 1, _line(error)
                continue
            self.servers.check(server.url, info)
            if server.failures:
                self.servers.counts["returned_servers"] += 1
            if not server.failures:
                self.down_since = None  # patience is for servers that fail, not for a first answer that takes its time
            server.up.set()
            return

    def _check_patience(self) -> None:
        if self.down_since is None or any(server.up.is_set() for server in self.all):
            return
        if time.monotonic() - self.down_since > self.servers.patience_s:
            errors = [f"{server.url}: {server.error}" for server in self.all if server.error]
            raise ConnectionError(_nobody(self.servers.patience_s, errors))


def _is_router(response: httpx.Response) -> bool:
    """Whether who answers knows nothing of servers: SGLang's router passes requests on and asks none of them."""
    return response.status_code == 404


def _routed(response: httpx.Response) -> dict[str, Any]:
    """What a router knows of the model behind it, as the /server_info of a server would tell it."""
    record = _json(response)
    try:
        return {"served_model_name": record["data"][0]["id"], "version": ROUTER, "dtype": "", "device": ""}
    except (TypeError, KeyError, IndexError) as error:
        raise NonsenseError(f"{response.url.path}: got {str(record)[:80]}, wanted the model of a router") from error


def _info(response: httpx.Response) -> dict[str, Any]:
    info = _json(response)
    if not isinstance(info, dict):
        raise NonsenseError(f"/server_info: got {type(info).__name__}, wanted an object")
    return info


def _json(response: httpx.Response) -> Any:
    if response.status_code != 200:
        raise NonsenseError(_status(response))
    try:
        return response.json()
    except ValueError as error:
        raise NonsenseError(f"{response.url.path}: got {response.text[:40]!r}, wanted JSON") from error


def _status(response: httpx.Response) -> str:
    return f"{response.url.path}: status {response.status_code}: {' '.join(response.text.split())[:200]}"


def _line(error: Exception) -> str:
    return f"{' '.join(str(error).split())}" or type(error).__name__


def _nobody(patience_s: float, errors: Sequence[str]) -> str:
    return f"engine.servers: none was well for {patience_s:.0f} s; {'; '.join(errors)}"

"""The engine behind SGLang servers: requests become bodies of POST /generate, answers are checked word by word.

Greedy tokens equal those of the embedded engine in float32 and scores agree within 1e-4 (tests/test_sglang.py). Servers
that serve.py starts hold the whole contract of Request. Others know no allowed_range, end at the model's own end of
text and may generate padding rows: what breaks the contract comes back with finish_reason error and is counted. Their
scores share a little probability with padding rows. A router passes no logit processor on: allowed_range is not held
behind it, whoever started the servers.
"""

from __future__ import annotations

import atexit
import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import httpx

from components.shared.engine import ERROR, LENGTH, STOP, Completion, EngineConfig, Request, check_request
from components.shared.engine.scoring import check_pairs
from components.shared.engine.serve import ServerProcesses, ServingConfig, check_info, served_here
from components.shared.engine.servers import ATTEMPTS, ROUTER, Call, NonsenseError, Refused, Servers
from components.shared.engine.sglang_server import PROCESSOR
from components.shared.tracking import Progress, no_progress


def load(config: EngineConfig) -> SglangEngine:
    """The engine on config.servers, or on a server of its own on this machine when there are none.

    Raises ValueError when the folder is no causal LM with a tokenizer or a server has another model; ConnectionError
    when no server answers within config.patience_s. A server of its own that dies is not started again: the run ends
    with ConnectionError, and the next try starts another.
    """
    from components.shared.tokens import load_tokenizer

    folder = Path(config.model)
    if not (folder / "config.json").is_file():
        raise ValueError(f"engine.model: no config.json in {config.model!r}; wanted the folder of a causal LM")
    for name in ("in_flight", "timeout_s", "patience_s"):
        if not getattr(config, name) > 0:
            raise ValueError(f"engine.{name}: got {getattr(config, name)}, wanted more than 0")
    for url in config.servers:
        _check_url(url)
    urls = config.servers
    if not urls:
        own = ServerProcesses(ServingConfig.of(config))
        atexit.register(own.close)
        urls = own.start()
    return SglangEngine(replace(config, servers=urls), len(load_tokenizer(folder)))


def _check_url(url: str) -> None:
    try:
        parsed = httpx.URL(url)
        sound = parsed.scheme in ("http", "https") and bool(parsed.host)
    except httpx.InvalidURL:
        sound = False
    if not sound:
        raise ValueError(f"engine.servers: got {url!r}, wanted a URL such as http://127.0.0.1:30000")


class SglangEngine:
    """Generation by one or several SGLang servers that all serve the same model."""

    def __init__(self, config: EngineConfig, vocab_size: int) -> None:
        """vocab_size: ids that exist, at most the rows of the model's matrix in config.model.

        Raises ValueError when it is more or a server has another model, ConnectionError when none answers.
        """
        self.config, self.vocab_size = config, vocab_size
        self.rows = int(json.loads((Path(config.model) / "config.json").read_text(encoding="utf-8"))["vocab_size"])
        if vocab_size > self.rows:
            raise ValueError(f"engine.model: the tokenizer has {vocab_size} ids, the model {self.rows}: not a pair")
        self.servers = Servers(
            config.servers,
            in_flight=config.in_flight,
            timeout_s=config.timeout_s,
            patience_s=config.patience_s,
            check=self._check,
        )
        self.restricts = False
        """Whether the servers hold allowed_range themselves."""
        infos = self.servers.infos()
        kinds = {f"sglang {info.get('version')} {info.get('dtype')} {info.get('device')}" for info in infos.values()}
        self._name = ", ".join(sorted(kinds))
        self.restricts = all(served_here(info) and info.get("version") != ROUTER for info in infos.values())

    @property
    def name(self) -> str:
        """Kind, version, dtype and device as the servers report them."""
        return self._name

    @property
    def exact(self) -> bool:
        """Never: rounding depends on what else a server has in its batch."""
        return False

    @property
    def counts(self) -> Counter[str]:
        """failed_calls, lost_servers, returned_servers, refused, broke_contract: so far."""
        return self.servers.counts

    def generate(self, requests: Iterable[Request]) -> Iterator[Completion]:
        """Completions as they end; see Engine.generate. Raises ConnectionError when no server was well for long."""
        for _, completion in self._made(enumerate(requests)):
            yield completion

    def generate_all(self, requests: list[Request], progress: Progress = no_progress) -> list[Completion]:
        """Completions in the order of the requests, all checked before the first is sent.

        Those that may become longest go first, so that the end is not left to a few long ones and calls that share a
        POST are of similar length.
        """
        for request in requests:
            check_request(request, self.vocab_size)
        order = sorted(range(len(requests)), key=lambda index: -requests[index].max_new_tokens)
        made = progress(self._made((index, requests[index]) for index in order), len(requests))
        completions = dict(made)
        return [completions[index] for index in range(len(requests))]

    def stream(self, request: Request) -> Iterator[list[int]]:
        """New ids of one request as they come; goes on at the next server when one fails."""
        check_request(request, self.vocab_size)
        if refused := self._refuse(request):
            raise ValueError(refused.error)
        sent: list[int] = []
        errors: list[str] = []
        while len(errors) < ATTEMPTS * len(self.servers.urls):
            url = self.servers.urls[len(errors) % len(self.servers.urls)]
            rest = replace(
                request,
                token_ids=[*request.token_ids, *sent],
                max_new_tokens=request.max_new_tokens - len(sent),
            )
            try:
                for part, ended in self._parts(rest, url):
                    sent += part
                    if part:
                        yield part
                    if ended or len(sent) == request.max_new_tokens:
                        return
                raise NonsenseError("the answer ended before its completion did")
            except (httpx.HTTPError, NonsenseError) as error:
                self.counts["failed_calls"] += 1
                errors.append(f"{url}: {error}")
        raise ConnectionError(f"request {request.key!r}: {len(errors)} attempts to stream failed; last {errors[-1]}")

    def score(self, prompts: list[list[int]], continuations: list[list[int]]) -> list[list[float]]:
        """Nats of every continuation token; see Engine.score. A server keeps the prompts that pairs share."""
        check_pairs(prompts, continuations, self.vocab_size, self.config.max_length)
        pairs = list(zip(prompts, continuations, strict=True))
        order = sorted(range(len(pairs)), key=lambda index: pairs[index][0])
        scores: dict[int, list[float]] = {}
        for call, nats in self.servers.run(_score_call(index, *pairs[index]) for index in order):
            if isinstance(nats, Refused):
                raise ValueError(f"score: pair {call.index}: {nats.reason}")
            scores[call.index] = nats
        return [scores[index] for index in range(len(pairs))]

    def _check(self, url: str, info: dict[str, Any]) -> None:
        config = self.config
        check_info(url, info, folder=Path(config.model), vocab_size=self.vocab_size, max_length=config.max_length)
        if self.restricts and not (served_here(info) and info.get("version") != ROUTER):
            raise ValueError(f"engine.servers: {url}: was not started by serve.py, but the first ones were")

    def _made(self, requests: Iterable[tuple[int, Request]]) -> Iterator[tuple[int, Completion]]:
        """(index, completion) of each (index, request).

        Log-probabilities come from a second pass: SGLang's own are taken after temperature and allowed range.
        """
        run = self._run(requests)
        if not self.config.logprobs:
            yield from ((index, completion) for index, _, completion in run)
            return
        while part := list(islice(run, self.config.in_flight)):
            made = [place for place, (_, _, completion) in enumerate(part) if completion.token_ids]
            prompts = [list(part[place][1].token_ids) for place in made]
            nats = dict(zip(made, self.score(prompts, [part[place][2].token_ids for place in made]), strict=True))
            for place, (index, _, completion) in enumerate(part):
                failed = completion.finish_reason == ERROR
                yield index, completion if failed else replace(completion, logprobs=nats.get(place, []))

    def _run(self, requests: Iterable[tuple[int, Request]]) -> Iterator[tuple[int, Request, Completion]]:
        """(index, request, completion) of each (index, request); those that are too long are not sent."""
        too_long: list[tuple[int, Request, Completion]] = []
        known: dict[int, Request] = {}

        def calls() -> Iterator[Call]:
            for index, request in requests:
                check_request(request, self.vocab_size)
                if refused := self._refuse(request):
                    too_long.append((index, request, refused))
                else:
                    known[index] = request
                    yield Call(index, self._body(request), partial(self._read, request))

        for call, made in self.servers.run(calls()):
            yield from _taken(too_long)
            request = known.pop(call.index)
            yield call.index, request, _error(request, made.reason) if isinstance(made, Refused) else made
        yield from _taken(too_long)

    def _body(self, request: Request) -> dict[str, Any]:
        sampling: dict[str, Any] = {
            "max_new_tokens": request.max_new_tokens,
            "temperature": request.temperature,
            "top_p": request.top_p,
            "sampling_seed": request.seed % 2**31,
        }
        if request.stop_ids:
            sampling["stop_token_ids"] = list(request.stop_ids)
        else:
            sampling["ignore_eos"] = True
        body = {"input_ids": list(request.token_ids), "sampling_params": sampling}
        if not self.restricts:
            return body
        if request.allowed_range is None:
            return body | {"custom_logit_processor": None}
        sampling["custom_params"] = {"allowed": [*request.allowed_range, *request.stop_ids]}
        return body | {"custom_logit_processor": PROCESSOR}

    def _read(self, request: Request, answer: Any) -> Completion:
        """The completion in an answer. Raises NonsenseError when no server that runs this model says so."""
        ids, reason, matched = _output(answer, self.rows)
        if len(ids) > request.max_new_tokens:
            raise NonsenseError(f"got {len(ids)} new ids, wanted at most {request.max_new_tokens}")
        stopped = bool(ids) and ids[-1] in request.stop_ids
        ids = ids[:-1] if stopped else ids
        if not stopped and reason == LENGTH and len(ids) != request.max_new_tokens:
            raise NonsenseError(f"got {len(ids)} new ids, wanted max_new_tokens={request.max_new_tokens} or a stop id")
        broken = ""
        if not stopped and reason != LENGTH:
            broken = f"the server ended at {matched!r}, which is no stop id of the request"
        elif outside := self._outside(request, ids):
            broken = f"the server generated id {outside[0]}, which the request does not allow"
        if broken:
            self.counts["broke_contract"] += 1
            return _error(request, broken)
        made = STOP if stopped else LENGTH
        return Completion(key=request.key, token_ids=ids, logprobs=None, finish_reason=made, error="")

    def _outside(self, request: Request, ids: list[int]) -> list[int]:
        first, stop = request.allowed_range or (0, self.vocab_size)
        return [i for i in ids if not first <= i < stop]

    def _parts(self, request: Request, url: str) -> Iterator[tuple[list[int], bool]]:
        """(new ids, whether the completion has ended) of each event of a streamed answer."""
        sent = 0
        with self.servers.stream(self._body(request), url) as lines:
            for line in lines:
                if not line.startswith("data: ") or line == "data: [DONE]":
                    continue
                try:
                    event = json.loads(line.removeprefix("data: "))
                    total = event["meta_info"]["completion_tokens"]
                    ids, ended = event["output_ids"], event["meta_info"]["finish_reason"]
                    new = ids[len(ids) - (total - sent) :]
                except (ValueError, TypeError, KeyError) as error:
                    raise NonsenseError(f"streamed {line[:120]!r}") from error
                sent = total
                stopped = bool(new) and new[-1] in request.stop_ids
                new = new[:-1] if stopped else new
                if outside := self._outside(request, new):
                    raise NonsenseError(f"streamed id {outside[0]}, which the request does not allow")
                yield new, stopped or ended is not None

    def _refuse(self, request: Request) -> Completion | None:
        length, limit = len(request.token_ids) + request.max_new_tokens, self.config.max_length
        if length <= limit:
            return None
        return _error(request, f"{length} tokens with its new ones, over engine.max_length={limit}")


def _taken(waiting: list[Any]) -> list[Any]:
    taken, waiting[:] = list(waiting), []
    return taken


def _error(request: Request, reason: str) -> Completion:
    error = f"request {request.key!r}: {reason}"
    return Completion(key=request.key, token_ids=[], logprobs=None, finish_reason=ERROR, error=error)


def _output(answer: Any, rows: int) -> tuple[list[int], str, Any]:
    """(new ids with the stop id, kind of end, what matched) of one answer of /generate."""
    try:
        ids, end = answer["output_ids"], answer["meta_info"]["finish_reason"]
        reason, matched = end["type"], end.get("matched", end.get("message"))
    except (TypeError, KeyError, AttributeError) as error:
        raise NonsenseError(f"got the answer {str(answer)[:80]!r}, wanted output_ids and finish_reason") from error
    if not isinstance(ids, list) or not all(type(i) is int and 0 <= i < rows for i in ids):
        raise NonsenseError(f"got output_ids {str(ids)[:80]}, wanted ids in 0..{rows - 1}")
    if reason not in (STOP, LENGTH):
        raise NonsenseError(f"got finish_reason {reason!r} ({matched}), wanted {STOP} or {LENGTH}")
    return ids, reason, matched


def _score_call(index: int, prompt: list[int], continuation: list[int]) -> Call:
    body = {
        "input_ids": [*prompt, *continuation],
        "sampling_params": {"max_new_tokens": 0, "temperature": 0.0},
        "return_logprob": True,
        "logprob_start_len": len(prompt) - 1,
    }
    return Call(index, body, _nats(len(continuation)))


def _nats(count: int) -> Callable[[Any], list[float]]:
    def read(answer: Any) -> list[float]:
        try:
            nats = [entry[0] for entry in answer["meta_info"]["input_token_logprobs"][1:]]
        except (TypeError, KeyError, IndexError) as error:
            raise NonsenseError(f"got the answer {str(answer)[:80]!r}, wanted input_token_logprobs") from error
        good = all(isinstance(value, float | int) and math.isfinite(value) and value < 1e-3 for value in nats)
        if len(nats) != count or not good:
            raise NonsenseError(f"got the scores {str(nats)[:80]}, wanted {count} log-probabilities")
        return nats

    return read

"""Generation behind one interface: what a request is, what comes back, and who makes it.

An engine runs a stock causal LM from its folder. The embedded one lives in this process (transformers, continuous
batching); a server behind the same interface gets the same requests. Nothing heavy is imported before make_engine.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from enum import Enum
from typing import Any, Protocol

from components.shared.identity import FREE
from components.shared.tracking import Progress, no_progress

STOP, LENGTH, ERROR = "stop", "length", "error"


class EngineKind(Enum):
    """What runs the model."""

    transformers = "transformers"
    """In this process, on the GPU when there is one."""
    sglang = "sglang"
    """SGLang servers, over HTTP."""


@dataclass(kw_only=True)
class EngineConfig:
    """Which engine generates, from which model, in which sizes."""

    kind: EngineKind
    """transformers: inside the stage's own process; sglang: behind servers."""
    model: str
    """Folder of a causal LM with its tokenizer; stages fill it in with dataclasses.replace, YAML says ''."""
    dtype: str
    """float32 (byte-identical results on a CPU) or bfloat16."""
    max_batch: int
    """Requests that are decoded together."""
    max_length: int
    """Most tokens of a request, prompt and new ones together."""
    max_tokens: int
    """Most tokens of one prefill or scoring batch, padding included; bounds memory."""
    num_threads: int = field(metadata=FREE)
    """CPU threads of the model; results in float32 are byte-identical for equal numbers of threads."""
    logprobs: bool
    """Return the log-probability of each generated token."""
    servers: list[str]
    """Base URLs such as http://127.0.0.1:30000, all with the same model; [] starts one here (sglang only)."""
    in_flight: int
    """Requests in flight at each server; more than it decodes together keep it busy (sglang only)."""
    timeout_s: float
    """Longest wait for one answer, queueing at the server included, in seconds (sglang only)."""
    patience_s: float
    """Longest time without any server that is well before the run ends, in seconds (sglang only)."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """One prompt and how to go on from it."""

    key: str
    """Name by which the caller knows the completion again."""
    token_ids: Sequence[int]
    """The prompt, at least one id of the model's vocabulary."""
    max_new_tokens: int
    """At least 1."""
    temperature: float = 0.0
    """0 takes the most likely token; otherwise logits are divided by it before sampling."""
    top_p: float = 1.0
    """Sample from the fewest most likely tokens that hold this much probability, 0 < top_p <= 1."""
    seed: int = 0
    """The tokens depend on (request, seed) alone, not on what else is in the batch."""
    stop_ids: tuple[int, ...] = ()
    """Ids that end the completion; always allowed, never part of it."""
    allowed_range: tuple[int, int] | None = None
    """(first, stop): only these ids and the stop ids may be generated; None: the whole vocabulary."""


@dataclass(frozen=True, kw_only=True)
class Completion:
    """What an engine made of one request."""

    key: str
    token_ids: list[int]
    """New ids without the stop id."""
    logprobs: list[float] | None
    """Nats of each id in token_ids under the model, before temperature, top_p and allowed_range; None if not asked."""
    finish_reason: str
    """stop: a stop id came; length: max_new_tokens came first; error: nothing was generated."""
    error: str
    """One line when finish_reason is error, otherwise empty."""


class Engine(Protocol):
    """The interface that all engines share."""

    @property
    def name(self) -> str:
        """Kind, version, dtype and device, as it is kept beside what was generated."""

    @property
    def exact(self) -> bool:
        """Whether the same requests in the same order give byte-identical tokens again."""

    @property
    def counts(self) -> Counter[str]:
        """What went wrong on the way, such as failed_calls and lost_servers; empty when nothing did."""

    def generate(self, requests: Iterable[Request]) -> Iterator[Completion]:
        """Completions as they end, in any order; requests are pulled as room comes free, so both may be endless.

        Raises ValueError for a request that the model cannot take (check_request); a prompt that leaves no room for
        its new tokens comes back with finish_reason error, since one long document should not end a run.
        """

    def generate_all(self, requests: list[Request], progress: Progress = no_progress) -> list[Completion]:
        """Completions in the order of the requests; progress: shows them as they end."""

    def stream(self, request: Request) -> Iterator[list[int]]:
        """New ids of one request as they come, the stop id left out."""

    def score(self, prompts: list[list[int]], continuations: list[list[int]]) -> list[list[float]]:
        """Nats of every continuation token given its prompt and the tokens before it, in the order given.

        Pairs that share a prompt are computed together. Raises ValueError for an empty prompt or continuation, for
        an id outside the vocabulary, and for a pair longer than max_length.
        """


def make_engine(config: EngineConfig) -> Engine:
    """The engine that the config asks for, with its model loaded.

    Raises ValueError when the folder holds no causal LM that the engine can run, or a server has another model;
    ConnectionError when no server answers.
    """
    if config.kind is EngineKind.sglang:
        from components.shared.engine import sglang

        return sglang.load(config)
    if config.servers:
        raise ValueError(f"engine.servers: got {len(config.servers)} of them, wanted [] with kind={config.kind.value}")
    from components.shared.engine import embedded

    return embedded.load(config)


def identity(config: EngineConfig) -> dict[str, Any]:
    """The settings that can change what is generated: part of a shard's key. Where and how fast it runs is not."""
    settings = asdict(config) | {"kind": config.kind.value}
    left_out = {"model", "servers", "in_flight", "timeout_s", "patience_s"}
    if config.kind is EngineKind.sglang:
        left_out |= {"max_batch", "max_tokens", "num_threads"}
    return {name: value for name, value in settings.items() if name not in left_out}


def check_request(request: Request, vocab_size: int) -> None:
    """Raise ValueError, naming the request, when the model of vocab_size ids cannot take it."""
    name = f"request {request.key!r}"
    check_ids(request.token_ids, vocab_size, f"{name}: token_ids")
    check_ids(request.stop_ids, vocab_size, f"{name}: stop_ids")
    if not request.token_ids:
        raise ValueError(f"{name}: empty prompt; wanted at least one token id")
    if request.max_new_tokens < 1:
        raise ValueError(f"{name}: max_new_tokens: got {request.max_new_tokens}, wanted at least 1")
    if not request.temperature >= 0:
        raise ValueError(f"{name}: temperature: got {request.temperature}, wanted 0 or more")
    if not 0 < request.top_p <= 1:
        raise ValueError(f"{name}: top_p: got {request.top_p}, wanted more than 0 and at most 1")
    if request.allowed_range is not None:
        first, stop = request.allowed_range
        if not 0 <= first < stop <= vocab_size:
            raise ValueError(f"{name}: allowed_range: got {first, stop}, wanted a part of 0..{vocab_size}")


def check_ids(token_ids: Sequence[int], vocab_size: int, what: str) -> None:
    """Raise ValueError for the first id outside 0..vocab_size-1."""
    if len(token_ids) and not (min(token_ids) >= 0 and max(token_ids) < vocab_size):
        bad = next(i for i in token_ids if not 0 <= i < vocab_size)
        raise ValueError(f"{what}: got id {bad}, wanted 0..{vocab_size - 1}, the vocabulary of the model")

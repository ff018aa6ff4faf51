"""The engine inside this process: a stock transformers causal LM decoded with continuous batching.

Requests wait in the caller's iterator, are prefilled together into free slots and decoded one token a step; a sequence
that ends frees its slot at once, so short ones never wait for the longest (Yu et al. 2022, Orca). In float32 greedy
tokens equal those of `model.generate`, one request at a time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import numpy as np
import torch
import transformers
from transformers import AutoModelForCausalLM, DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer
from transformers.utils.logging import disable_progress_bar

from components.shared.engine import ERROR, LENGTH, STOP, Completion, EngineConfig, Request, check_request
from components.shared.engine.sampling import choose, uniforms
from components.shared.engine.scoring import score_pairs
from components.shared.engine.slots import SlotCache
from components.shared.tracking import Progress, no_progress

_REFILL = 8
"""Prefill when 1/8 of the slots are free: a prefill costs about as much as a decoding step on a small model."""


def load(config: EngineConfig) -> EmbeddedEngine:
    """The engine with the model in config.model on the GPU when there is one.

    Raises ValueError when the folder is missing, is no causal LM or has no tokenizer.
    """
    from components.shared.tokens import load_tokenizer

    folder = Path(config.model)
    if not (folder / "config.json").is_file():
        raise ValueError(f"engine.model: no config.json in {config.model!r}; wanted the folder of a causal LM")
    dtype = _dtype(config.dtype)
    disable_progress_bar()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model: torch.nn.Module = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, local_files_only=True)
    model.to(device)
    assert isinstance(model, PreTrainedModel)
    return EmbeddedEngine(model, len(load_tokenizer(folder)), config)


def _dtype(name: str) -> torch.dtype:
    known = {"float32": torch.float32, "bfloat16": torch.bfloat16}
    if name not in known:
        raise ValueError(f"engine.dtype: got {name!r}, wanted one of {', '.join(known)}")
    return known[name]


class EmbeddedEngine:
    """Continuous batching over a model in this process; one generation at a time."""

    def __init__(self, model: PreTrainedModel, vocab_size: int, config: EngineConfig) -> None:
        """model: a causal LM; vocab_size: ids that exist, rows of the matrix beyond them are never generated.

        Raises ValueError when the model's logits are more than a linear head on its last hidden state.
        """
        for name in ("logit_scale", "logits_scaling", "final_logit_softcapping"):
            if getattr(model.config, name, None) not in (None, 1, 1.0):
                raise ValueError(f"engine.model: {model.config.model_type} rescales its logits ({name}), not supported")
        if vocab_size > model.config.vocab_size:
            raise ValueError(
                f"engine.model: the tokenizer has {vocab_size} ids, the model {model.config.vocab_size}: not a pair"
            )
        self.model, self.vocab_size, self.config = model.eval(), vocab_size, config
        self.device = model.device
        self.body = model.get_decoder()
        self.head = model.get_output_embeddings()
        if self.device.type == "cpu":
            torch.set_num_threads(config.num_threads)

    @property
    def name(self) -> str:
        """Kind, version, dtype and device."""
        return f"transformers {transformers.__version__} {self.config.dtype} {self.device.type}"

    @property
    def exact(self) -> bool:
        """float32 on a CPU."""
        return self.device.type == "cpu" and self.model.dtype == torch.float32

    @property
    def counts(self) -> Counter[str]:
        """Nothing goes wrong on the way."""
        return Counter()

    def generate(self, requests: Iterable[Request]) -> Iterator[Completion]:
        """Completions as they end; see Engine.generate."""
        for _, completion in self._run(requests):
            yield completion

    def generate_all(self, requests: list[Request], progress: Progress = no_progress) -> list[Completion]:
        """Completions in the order of the requests, all checked before the first step.

        Those that may become longest begin first, so that the last steps are not left to a few long ones.
        """
        for request in requests:
            check_request(request, self.vocab_size)
        order = sorted(range(len(requests)), key=lambda index: -requests[index].max_new_tokens)
        made = progress(self._run(requests[index] for index in order), len(requests))
        completions = {order[place]: completion for place, completion in made}
        return [completions[index] for index in range(len(requests))]

    def stream(self, request: Request) -> Iterator[list[int]]:
        """New ids of one request, one a step."""
        check_request(request, self.vocab_size)
        if refused := self._refuse(request):
            raise ValueError(refused.error)
        batch = _Batch(self, max_slots=1)
        finished = batch.admit([(0, request)])
        sent = 0
        while True:
            tokens = finished[0][1].token_ids if finished else batch.live[0].tokens
            if len(tokens) > sent:
                yield tokens[sent:]
                sent = len(tokens)
            if finished:
                return
            finished = batch.step()

    def score(self, prompts: list[list[int]], continuations: list[list[int]]) -> list[list[float]]:
        """Nats of every continuation token; see Engine.score."""
        return score_pairs(self.body, self.head, self.vocab_size, self.config, prompts, continuations)

    def _run(self, requests: Iterable[Request]) -> Iterator[tuple[int, Completion]]:
        queue = enumerate(requests)
        batch = _Batch(self, self.config.max_batch)
        waiting = True
        while waiting or batch.live:
            free = self.config.max_batch - len(batch.live)
            if waiting and (not batch.live or free >= max(1, self.config.max_batch // _REFILL)):
                pulled = list(islice(queue, free))
                waiting = len(pulled) == free
                admitted = []
                for index, request in pulled:
                    check_request(request, self.vocab_size)
                    if refused := self._refuse(request):
                        yield index, refused
                    else:
                        admitted.append((index, request))
                yield from batch.admit(admitted)
            if batch.live:
                yield from batch.step()

    def _refuse(self, request: Request) -> Completion | None:
        length, limit = len(request.token_ids) + request.max_new_tokens, self.config.max_length
        if length <= limit:
            return None
        error = f"request {request.key!r}: {length} tokens with its new ones, over engine.max_length={limit}"
        return Completion(key=request.key, token_ids=[], logprobs=None, finish_reason=ERROR, error=error)


@dataclass
class _Sequence:
    """One live sequence; its place in _Batch.live is its slot."""

    index: int
    request: Request
    length: int
    """Positions that its slot holds."""
    mask: int
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)


class _Batch:
    """The live sequences and their memory. Slot i belongs to live[i]; a leaver's place is taken by the last."""

    def __init__(self, engine: EmbeddedEngine, max_slots: int) -> None:
        self.engine = engine
        self.live: list[_Sequence] = []
        self.cache = SlotCache(engine.model.config, max_slots, engine.model.dtype, engine.device)
        self.masks: dict[tuple[tuple[int, int] | None, tuple[int, ...]], int] = {}
        self.forbidden = torch.empty(0, engine.head.weight.shape[0], dtype=torch.bool, device=engine.device)

    @torch.inference_mode()
    def admit(self, requests: list[tuple[int, Request]]) -> list[tuple[int, Completion]]:
        """Prefill new requests into free slots and choose their first tokens; returns those that ended at once."""
        requests = sorted(requests, key=lambda pair: len(pair[1].token_ids))
        finished = []
        while requests:
            count = self._how_many(requests)
            # the longest first: the budget then holds for the whole batch
            chunk, requests = requests[-count:], requests[:-count]
            finished += self._prefill(chunk)
        return finished

    def _how_many(self, requests: list[tuple[int, Request]]) -> int:
        longest = len(requests[-1][1].token_ids)
        return min(len(requests), max(1, self.engine.config.max_tokens // longest))

    def _prefill(self, requests: list[tuple[int, Request]]) -> list[tuple[int, Completion]]:
        lengths = [len(request.token_ids) for _, request in requests]
        longest, first = max(lengths), len(self.live)
        # padding goes to the right, where causal attention keeps it out of sight
        ids = np.zeros((len(requests), longest), dtype=np.int64)
        for row, (_, request) in enumerate(requests):
            ids[row, : lengths[row]] = request.token_ids
        past = DynamicCache()
        device = self.engine.device
        hidden = self.engine.body(
            input_ids=torch.from_numpy(ids).to(device), past_key_values=past, use_cache=True
        ).last_hidden_state
        self.cache.reserve(longest + 1)
        for layer, made in enumerate(past.layers):
            assert isinstance(made, DynamicLayer) and made.keys is not None and made.values is not None
            self.cache.store(first, layer, made.keys, made.values)
        last = torch.tensor(lengths, device=device) - 1
        hidden = hidden[torch.arange(len(requests), device=device), last]
        self.live += [
            _Sequence(index, request, length, self._mask_of(request))
            for (index, request), length in zip(requests, lengths, strict=True)
        ]
        return self._extend(first, hidden)

    @torch.inference_mode()
    def step(self) -> list[tuple[int, Completion]]:
        """Decode one token of every live sequence; returns those that ended."""
        device = self.engine.device
        lengths = [sequence.length for sequence in self.live]
        positions = torch.tensor(lengths, device=device)
        ids = torch.tensor([sequence.tokens[-1] for sequence in self.live], device=device)
        mask = self.cache.begin_step(positions, max(lengths) + 1)
        hidden = self.engine.body(
            input_ids=ids[:, None],
            position_ids=positions[:, None],
            attention_mask=mask,
            past_key_values=self.cache,
            use_cache=True,
        ).last_hidden_state[:, -1]
        for sequence in self.live:
            sequence.length += 1
        return self._extend(0, hidden)

    def _extend(self, first: int, hidden: torch.Tensor) -> list[tuple[int, Completion]]:
        """Choose the next token of live[first:] from its hidden states (n, width) and take out what has ended."""
        sequences = self.live[first:]
        logits = self.engine.head(hidden).float()
        logits[:, self.engine.vocab_size :] = float("-inf")
        chosen, logprobs = self._choose(sequences, logits)
        finished = []
        for offset in range(len(sequences) - 1, -1, -1):
            sequence, token = sequences[offset], chosen[offset]
            stopped = token in sequence.request.stop_ids
            if not stopped:
                sequence.tokens.append(token)
                if logprobs is not None:
                    sequence.logprobs.append(logprobs[offset])
            if stopped or len(sequence.tokens) == sequence.request.max_new_tokens:
                finished.append((sequence.index, self._completion(sequence, STOP if stopped else LENGTH)))
                self._leave(first + offset)
        return finished

    def _choose(self, sequences: list[_Sequence], logits: torch.Tensor) -> tuple[list[int], list[float] | None]:
        device = logits.device
        restricted = logits
        used = {sequence.mask for sequence in sequences}
        if used != {-1}:
            rows = torch.tensor([sequence.mask for sequence in sequences], device=device)
            restricted = logits.masked_fill(self.forbidden[rows] & (rows >= 0)[:, None], float("-inf"))
        requests = [sequence.request for sequence in sequences]
        greedy = all(request.temperature == 0 for request in requests)
        settings = torch.zeros(2, len(requests), device=device)
        uniform = torch.zeros(len(requests), dtype=torch.float64, device=device)
        if not greedy:
            settings = torch.tensor([[r.temperature for r in requests], [r.top_p for r in requests]], device=device)
            seeds = np.array([request.seed & (2**64 - 1) for request in requests], dtype=np.uint64)
            steps = np.array([len(sequence.tokens) for sequence in sequences], dtype=np.uint64)
            uniform = torch.from_numpy(uniforms(seeds, steps)).to(device)
        chosen = choose(restricted, settings[0], settings[1], uniform, greedy)
        if not self.engine.config.logprobs:
            return chosen.tolist(), None
        logprobs = logits.gather(1, chosen[:, None]).squeeze(1) - logits.logsumexp(-1)
        return chosen.tolist(), logprobs.tolist()

    def _completion(self, sequence: _Sequence, reason: str) -> Completion:
        logprobs = sequence.logprobs if self.engine.config.logprobs else None
        key = sequence.request.key
        return Completion(key=key, token_ids=sequence.tokens, logprobs=logprobs, finish_reason=reason, error="")

    def _leave(self, slot: int) -> None:
        last = self.live.pop()
        if slot < len(self.live):
            self.cache.move(len(self.live), slot, last.length)
            self.live[slot] = last

    def _mask_of(self, request: Request) -> int:
        """Row of self.forbidden for what the request may generate, -1 when all of the vocabulary is allowed."""
        if request.allowed_range is None:
            return -1
        key = (request.allowed_range, request.stop_ids)
        if key not in self.masks:
            row = torch.ones(1, self.forbidden.shape[1], dtype=torch.bool, device=self.forbidden.device)
            row[0, slice(*request.allowed_range)] = False
            row[0, list(request.stop_ids)] = False
            self.masks[key] = len(self.masks)
            self.forbidden = torch.cat([self.forbidden, row])
        return self.masks[key]

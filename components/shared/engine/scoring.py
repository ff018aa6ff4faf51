"""Likelihood of continuations: nats of every token, pairs that share a prompt computed as one row.

A row is a prompt followed by several of its continuations. Each continuation sees the prompt and itself, at the
positions it would have right after the prompt, so ten candidates of one question cost one question, not ten.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch

from components.shared.engine import EngineConfig, check_ids


@dataclass
class _Row:
    """One prompt and those of its continuations that are computed with it."""

    prompt: list[int]
    pairs: list[int] = field(default_factory=list)
    """Which pairs of the caller the continuations are."""
    length: int = 0
    """Tokens in the row."""


@torch.inference_mode()
def score_pairs(
    body: torch.nn.Module,
    head: torch.nn.Module,
    vocab_size: int,
    config: EngineConfig,
    prompts: list[list[int]],
    continuations: list[list[int]],
) -> list[list[float]]:
    """Log-probabilities in nats of each continuation's tokens, in the order of the pairs; see Engine.score.

    body: input ids to hidden states; head: hidden states to logits, rows from vocab_size on are padding.
    """
    check_pairs(prompts, continuations, vocab_size, config.max_length)
    device = next(body.parameters()).device
    scores: list[list[float]] = [[] for _ in prompts]
    for rows in _batches(_rows(prompts, continuations, config.max_length), config.max_tokens):
        ids, positions, mask, picks, targets = _tensors(rows, continuations)
        hidden = body(
            input_ids=torch.from_numpy(ids).to(device),
            position_ids=torch.from_numpy(positions).to(device),
            attention_mask=None if mask is None else torch.from_numpy(mask).to(device),
            use_cache=False,
        ).last_hidden_state
        nats = _nats(hidden.flatten(0, 1), head, vocab_size, picks, targets, config.max_tokens)
        start = 0
        for row in rows:
            for pair in row.pairs:
                scores[pair] = nats[start : start + len(continuations[pair])]
                start += len(continuations[pair])
    return scores


def check_pairs(prompts: list[list[int]], continuations: list[list[int]], vocab_size: int, max_length: int) -> None:
    """Raise ValueError for pairs that cannot be scored; see Engine.score."""
    if len(prompts) != len(continuations):
        raise ValueError(f"score: {len(prompts)} prompts but {len(continuations)} continuations")
    for index, (prompt, continuation) in enumerate(zip(prompts, continuations, strict=True)):
        if not prompt or not continuation:
            raise ValueError(f"score: pair {index}: empty {'continuation' if prompt else 'prompt'}; wanted an id each")
        if len(prompt) + len(continuation) > max_length:
            got = len(prompt) + len(continuation)
            raise ValueError(f"score: pair {index}: {got} tokens, over engine.max_length={max_length}")
        check_ids(prompt, vocab_size, f"score: pair {index}: prompt")
        check_ids(continuation, vocab_size, f"score: pair {index}: continuation")


def _rows(prompts: list[list[int]], continuations: list[list[int]], max_length: int) -> list[_Row]:
    """Pairs with equal prompts share a row as long as it stays within max_length tokens."""
    rows: list[_Row] = []
    open_rows: dict[tuple[int, ...], _Row] = {}
    for pair, (prompt, continuation) in enumerate(zip(prompts, continuations, strict=True)):
        key = tuple(prompt)
        row = open_rows.get(key)
        if row is None or row.length + len(continuation) > max_length:
            row = open_rows[key] = _Row(prompt, length=len(prompt))
            rows.append(row)
        row.pairs.append(pair)
        row.length += len(continuation)
    return rows


def _batches(rows: list[_Row], max_tokens: int) -> Iterator[list[_Row]]:
    """Rows of similar length, longest first, at most max_tokens with padding (one row may be more)."""
    rows = sorted(rows, key=lambda row: -row.length)
    while rows:
        count = max(1, max_tokens // rows[0].length)
        yield rows[:count]
        rows = rows[count:]


def _tensors(
    rows: list[_Row], continuations: list[list[int]]
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None, np.ndarray, np.ndarray]:
    """ids, positions: (rows, length) int64; mask: (rows, 1, length, length) bool or None when plain causal attention
    does; picks: flat places whose next token is scored; targets: those tokens, both (tokens,) int64."""
    length = max(row.length for row in rows)
    ids = np.zeros((len(rows), length), dtype=np.int64)
    positions = np.zeros((len(rows), length), dtype=np.int64)
    owner = np.zeros((len(rows), length), dtype=np.int32)  # 0: prompt, 1..: continuations
    picks, targets = [], []
    for index, row in enumerate(rows):
        size = len(row.prompt)
        ids[index, :size] = row.prompt
        positions[index, :size] = np.arange(size)
        start = size
        for number, pair in enumerate(row.pairs, start=1):
            tokens = continuations[pair]
            stop = start + len(tokens)
            ids[index, start:stop] = tokens
            positions[index, start:stop] = np.arange(size, size + len(tokens))
            owner[index, start:stop] = number
            # the first token follows the prompt, the others their own predecessors
            picks.append(index * length + np.concatenate([[size - 1], np.arange(start, stop - 1)]))
            targets.append(np.asarray(tokens, dtype=np.int64))
            start = stop
    mask = None
    if any(len(row.pairs) > 1 for row in rows):
        seen = (owner[:, None, :] == 0) | (owner[:, None, :] == owner[:, :, None])
        mask = (seen & np.tri(length, dtype=bool))[:, None]
    return ids, positions, mask, np.concatenate(picks), np.concatenate(targets)


def _nats(
    hidden: torch.Tensor, head: torch.nn.Module, vocab_size: int, picks: np.ndarray, targets: np.ndarray, chunk: int
) -> list[float]:
    """Log-softmax in float32 at the picked places only; hidden: (places, width)."""
    nats: list[float] = []
    for start in range(0, len(picks), chunk):
        places = torch.from_numpy(picks[start : start + chunk]).to(hidden.device)
        wanted = torch.from_numpy(targets[start : start + chunk]).to(hidden.device)
        logits = head(hidden[places]).float()[:, :vocab_size]
        nats += (logits.gather(1, wanted[:, None]).squeeze(1) - logits.logsumexp(-1)).tolist()
    return nats

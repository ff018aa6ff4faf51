"""Choosing among candidates by how likely a language model finds them, and the guesses that see no question."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from components.evaluate.config import Ranking
from components.shared.engine import Engine


@dataclass(frozen=True, kw_only=True)
class Choice:
    """One item as token ids."""

    prompt: list[int]
    blind: list[int]
    """The prompt without what makes one candidate right: at least one id."""
    candidates: list[list[int]]
    right: int
    """Place of the right candidate."""


@dataclass(frozen=True, kw_only=True)
class Ranked:
    """What the model made of one item."""

    chosen: int
    """Place of the likeliest candidate, the first one of equals."""
    credit: float
    """1 when the right candidate is likeliest, 1/k when it shares the first place with k - 1 others, else 0."""
    blind_credit: float
    """The same without the prompt."""


def rank(engine: Engine, choices: Sequence[Choice], ranking: Ranking) -> list[Ranked]:
    """Rank the candidates of every item with and without its prompt; a blind pair that repeats is computed once."""
    pairs = [(choice.prompt, candidate) for choice in choices for candidate in choice.candidates]
    nats = engine.score([prompt for prompt, _ in pairs], [candidate for _, candidate in pairs])
    blind_keys = [(tuple(choice.blind), tuple(candidate)) for choice in choices for candidate in choice.candidates]
    unique = sorted(set(blind_keys))
    blind_nats = engine.score([list(prompt) for prompt, _ in unique], [list(candidate) for _, candidate in unique])
    blind_of = dict(zip(unique, blind_nats, strict=True))
    ranked, start = [], 0
    for choice in choices:
        stop = start + len(choice.candidates)
        told = [_value(tokens, ranking) for tokens in nats[start:stop]]
        blind = [_value(blind_of[key], ranking) for key in blind_keys[start:stop]]
        values = [a - b for a, b in zip(told, blind, strict=True)] if ranking is Ranking.gain else told
        ranked.append(
            Ranked(
                chosen=int(np.argmax(values)),
                credit=credit(values, choice.right),
                blind_credit=credit(blind, choice.right),
            )
        )
        start = stop
    return ranked


def credit(values: Sequence[float], right: int) -> float:
    """1 when values[right] is the largest, 1/k when k values share the first place, 0 when another is larger."""
    best = max(values)
    if values[right] < best:
        return 0.0
    return 1.0 / sum(value == best for value in values)


def majority_credits(groups: Sequence[Hashable], answers: Sequence[str]) -> list[float]:
    """Credit of always giving the commonest answer of the item's group (its relation), ties shared.

    The answer is picked on the very items it is judged on, which can only flatter this baseline.
    """
    counts: dict[Hashable, Counter[str]] = {}
    for group, answer in zip(groups, answers, strict=True):
        counts.setdefault(group, Counter())[answer] += 1
    credits = []
    for group, answer in zip(groups, answers, strict=True):
        most = max(counts[group].values())
        ties = sum(count == most for count in counts[group].values())
        credits.append(1.0 / ties if counts[group][answer] == most else 0.0)
    return credits


def best_baseline(baselines: Sequence[Sequence[float]], groups: Sequence[str]) -> list[float]:
    """Per item the credit of the baseline that does best in the item's group, so that no group has an easy opponent.

    baselines: one sequence of per-item credits each, all of one length; equals: the first.
    """
    table = np.asarray(baselines, dtype=np.float64)
    chosen = np.zeros(table.shape[1])
    for group in sorted(set(groups)):
        members = np.asarray([name == group for name in groups])
        chosen[members] = table[int(table[:, members].mean(axis=1).argmax())][members]
    return chosen.tolist()

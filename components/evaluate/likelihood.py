"""Choosing among candidates by how likely a language model finds them, and the guesses that see no question."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from components.evaluate.config import Ranking
from components.shared.engine import Engine


@dataclass(frozen=True, kw_only=True)
class Ranked:
    """What the model made of one item."""

    chosen: int
    """Place of the likeliest candidate, the first one of equals."""
    credit: float
    """1 when the right candidate is likeliest, 1/k when it shares the first place with k - 1 others, else 0."""
    blind_credit: float
    """The same by values that know nothing of the story or the question."""


def candidate_values(
    engine: Engine, prompts: Sequence[list[int]], candidates: Sequence[list[list[int]]], ranking: Ranking
) -> list[list[float]]:
    """Nats of every candidate after its item's prompt, by token for Ranking.mean; equal pairs are computed once."""
    keys = [[(tuple(prompt), tuple(ids)) for ids in row] for prompt, row in zip(prompts, candidates, strict=True)]
    unique = sorted({key for row in keys for key in row})
    nats = engine.score([list(prompt) for prompt, _ in unique], [list(ids) for _, ids in unique])
    size = [len(tokens) if ranking is Ranking.mean else 1 for tokens in nats]
    value = {key: sum(tokens) / n for key, tokens, n in zip(unique, nats, size, strict=True)}
    return [[value[key] for key in row] for row in keys]


def alone_values(
    engine: Engine, documents: Sequence[list[list[int]]], ranking: Ranking, start: int
) -> list[list[float]]:
    """Nats of candidates that each stand at the beginning of a document of their own.

    A first id that all candidates of an item share is their prompt, since no document's first token is predicted in
    training; where they differ, `start` is.
    """
    prompts, rests = [], []
    for row in documents:
        shared = len({ids[0] for ids in row}) == 1 and min(map(len, row)) > 1
        prompts.append([row[0][0]] if shared else [start])
        rests.append([ids[1:] for ids in row] if shared else row)
    return candidate_values(engine, prompts, rests, ranking)


def other_values(
    values: Sequence[Sequence[float]], groups: Sequence[Hashable], clusters: Sequence[str]
) -> list[list[float]]:
    """What candidates are worth when the question is about something else: the mean over the group's other clusters.

    values: per item one value a candidate, candidates in one order within a group. An item whose group has no other
    cluster gets zeros, which is a tie.
    """
    places: dict[Hashable, list[int]] = {}
    for place, group in enumerate(groups):
        places.setdefault(group, []).append(place)
    found: list[list[float]] = [[] for _ in values]
    for members in places.values():
        table = np.asarray([values[place] for place in members], dtype=np.float64)
        names = np.asarray([clusters[place] for place in members])
        for place, name in zip(members, names, strict=True):
            others = table[names != name]
            found[place] = (others.mean(axis=0) if len(others) else np.zeros(table.shape[1])).tolist()
    return found


def rank(
    told: Sequence[Sequence[float]], blind: Sequence[Sequence[float]], right: Sequence[int], ranking: Ranking
) -> list[Ranked]:
    """Choose for every item by the values after its prompt; for Ranking.gain by what they exceed the blind ones."""
    ranked = []
    for values, unseen, place in zip(told, blind, right, strict=True):
        if ranking is Ranking.gain:
            values = [value - other for value, other in zip(values, unseen, strict=True)]
        chosen = int(np.argmax(values))
        ranked.append(Ranked(chosen=chosen, credit=credit(values, place), blind_credit=credit(unseen, place)))
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

"""New examples out of real ones: two utterances of a voice said one after the other, or crossed between words.

An utterance that begins as one sentence and ends as another cannot be known by heart, so the model has to read the
text; it also makes phrases of every length. Where words begin in the speech is known from the alignment.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from components.shared.words import words
from components.text_to_token.alignment import Alignment
from components.text_to_token.pairs import Pair


@dataclass(frozen=True)
class Spoken:
    """What one example says."""

    said: str
    codes: np.ndarray
    """(tokens,), uint16."""
    edges: np.ndarray
    """(characters + 1,) float64: where each character begins and the last ends, in tokens, never falling."""


def spoken(pairs: list[Pair], alignment: Alignment) -> list[Spoken]:
    """Real examples with their characters placed in time."""
    placed = alignment.times([pair.said for pair in pairs], [pair.codes for pair in pairs])
    return [
        Spoken(pair.said, pair.codes, edges_of(times, len(pair.codes)))
        for pair, times in zip(pairs, placed, strict=True)
    ]


def edges_of(times: np.ndarray, num_tokens: int) -> np.ndarray:
    """Edges half-way between the places of neighbouring characters: (characters,) -> (characters + 1,)."""
    return np.concatenate([[0.0], (times[1:] + times[:-1]) / 2, [float(num_tokens)]])


def join(first: Spoken, second: Spoken) -> Spoken:
    """One after the other, with a space between the texts."""
    start = len(first.codes)
    return Spoken(
        f"{first.said} {second.said}",
        np.concatenate([first.codes, second.codes]),
        np.concatenate([first.edges, start + second.edges]),
    )


def cross(first: Spoken, second: Spoken, rng: np.random.Generator) -> tuple[Spoken, Spoken] | None:
    """The beginning of each with the end of the other, cut before a word of both; None when one has no such place."""
    cuts = [_cuts(one) for one in (first, second)]
    if not cuts[0] or not cuts[1]:
        return None
    a, b = (own[rng.integers(len(own))] for own in cuts)
    return _splice(first, a, second, b), _splice(second, b, first, a)


def _cuts(one: Spoken) -> list[int]:
    """Characters before which a word begins with speech on either side."""
    return [start for start, _ in words(one.said)[1:] if 0 < round(float(one.edges[start])) < len(one.codes)]


def _splice(head: Spoken, stop: int, tail: Spoken, start: int) -> Spoken:
    """head up to character `stop`, then tail from character `start`."""
    head_codes, tail_codes = round(float(head.edges[stop])), round(float(tail.edges[start]))
    before = np.minimum(head.edges[:stop], head_codes)
    after = np.maximum(tail.edges[start:] - tail_codes, 0) + head_codes
    codes = np.concatenate([head.codes[:head_codes], tail.codes[tail_codes:]])
    return Spoken(head.said[:stop] + tail.said[start:], codes, np.concatenate([before, after]))


def mix(
    examples: list[tuple[Spoken, str]],
    crossed_share: float,
    joined_share: float,
    fits: Callable[[Spoken], bool],
    rng: np.random.Generator,
) -> list[tuple[Spoken, str]]:
    """The examples (what is said, voice) in pairs of a voice: crossed, joined or as they are, in a random order.

    fits: whether a new example is short enough; otherwise the pair stays as it is. Every token of the examples is
    there once.
    """
    by_voice: dict[str, list[Spoken]] = {}
    for number in rng.permutation(len(examples)):
        own, voice = examples[number]
        by_voice.setdefault(voice, []).append(own)
    mixed: list[tuple[Spoken, str]] = []
    for voice, waiting in sorted(by_voice.items()):
        while len(waiting) > 1:
            first, second = waiting.pop(), waiting.pop()
            made: tuple[Spoken, ...] = (first, second)
            drawn = rng.random()
            if drawn < crossed_share:
                made = cross(first, second, rng) or made
            elif drawn < crossed_share + joined_share:
                made = (join(first, second),)
            if not all(fits(one) for one in made):
                made = (first, second)
            mixed += [(one, voice) for one in made]
        mixed += [(one, voice) for one in waiting]
    return [mixed[i] for i in rng.permutation(len(mixed))]

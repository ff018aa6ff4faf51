"""Which part of a text each speech token says: a hidden Markov model of characters and tokens, learnt from the pairs.

Every speech token is said at one character; from token to token the character stays or moves on by at most MAX_JUMP.
The tables p(token | character) and p(jump) come from expectation-maximisation, begun where an even pace would have each
token (Vogel, Ney and Tillmann 1996, "HMM-based word alignment"). All utterances run side by side: ten rounds over 2,400
pairs of 31 tokens take 4 s of one CPU core.
Shapes: U utterances, N characters, T speech tokens, J jumps; padded at the end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from components.text_to_token.pace import Pace
from components.text_to_token.pairs import Pair

MAX_JUMP = 5
"""Characters that one token may pass over: 80 ms of fast speech with a silent ending."""
_SMOOTHING = 0.05
"""Count added to every (character, token): unseen ones stay possible."""
_TINY = 1e-300
_BATCH = 256
"""Utterances at a time; bounds memory."""


@dataclass(frozen=True)
class Alignment:
    """The aligner after training: rows of characters, columns of codes."""

    characters: dict[str, int]
    emission: np.ndarray
    """(characters, codes) float64, p(code | character)."""
    jump: np.ndarray
    """(MAX_JUMP + 1,) float64, p(jump)."""

    def times(self, texts: Sequence[str], codes: Sequence[np.ndarray]) -> list[np.ndarray]:
        """When each character is said, in tokens from the start: (characters,) float64, never falling.

        A character that no token was given to stands where the ones around it meet.
        """
        found: list[np.ndarray] = [np.empty(0)] * len(texts)
        for part in _parts(texts, codes):
            batch = _Batch.of([texts[i] for i in part], [codes[i] for i in part], self.characters)
            posterior, _ = batch.posteriors(self.emission, self.jump)
            for row, i in enumerate(part):
                found[i] = _centres(posterior[row, : len(codes[i]), : len(texts[i])])
        return found


def align_pairs(pairs: list[Pair], pace: Pace, num_codes: int, num_pairs: int, iterations: int) -> Alignment:
    """Learn the aligner from at most num_pairs of the pairs, evenly from the whole list."""
    if len(pairs) > num_pairs:
        pairs = [pairs[i] for i in np.linspace(0, len(pairs) - 1, num_pairs).astype(int)]
    expected = []
    for pair in pairs:
        silence, durations = pace.durations(list(pair.said), pair.language)
        middles = silence + np.cumsum(durations) - durations / 2
        expected.append(middles * len(pair.codes) / max(1e-6, 2 * silence + durations.sum()))
    return align([pair.said for pair in pairs], [pair.codes for pair in pairs], expected, num_codes, iterations)


def align(
    texts: Sequence[str], codes: Sequence[np.ndarray], expected: Sequence[np.ndarray], num_codes: int, iterations: int
) -> Alignment:
    """Learn the aligner. texts: of U utterances; codes: (tokens,) ints each; expected: when an even pace would have
    each character said, in tokens, (characters,) each; iterations: of expectation-maximisation.
    """
    characters = {c: i for i, c in enumerate(sorted(set("".join(texts))))}
    emission = np.full((len(characters), num_codes), _SMOOTHING)
    for text, own, times in zip(texts, codes, expected, strict=True):
        nearest = np.abs(np.arange(len(own))[:, None] + 0.5 - times[None, :]).argmin(1)
        rows = np.array([characters[text[i]] for i in nearest])
        np.add.at(emission, (rows, own.astype(np.int64)), 1.0)
    jump = np.full(MAX_JUMP + 1, 1 / (MAX_JUMP + 1))
    batches = [
        _Batch.of([texts[i] for i in part], [codes[i] for i in part], characters) for part in _parts(texts, codes)
    ]
    for _ in range(iterations):
        emission = emission / emission.sum(1, keepdims=True)
        new_emission, new_jump = np.full_like(emission, _SMOOTHING), np.full_like(jump, 1.0)
        for batch in batches:
            posterior, jumps = batch.posteriors(emission, jump)
            batch.add_counts(posterior, new_emission)
            new_jump += jumps
        emission, jump = new_emission, new_jump / new_jump.sum()
    return Alignment(characters, emission / emission.sum(1, keepdims=True), jump)


def _parts(texts: Sequence[str], codes: Sequence[np.ndarray]) -> list[list[int]]:
    """Numbers of utterances that share a batch: of similar length, so that little of it is padding."""
    order = sorted(range(len(texts)), key=lambda i: (len(codes[i]), len(texts[i])))
    return [order[start : start + _BATCH] for start in range(0, len(order), _BATCH)]


@dataclass(frozen=True)
class _Batch:
    """Utterances side by side."""

    characters: np.ndarray
    """(U, N) int64, 0 in the padding."""
    codes: np.ndarray
    """(U, T) int64, 0 in the padding."""
    num_characters: np.ndarray
    num_codes: np.ndarray

    @classmethod
    def of(cls, texts: Sequence[str], codes: Sequence[np.ndarray], characters: dict[str, int]) -> _Batch:
        n = np.array([len(text) for text in texts])
        t = np.array([len(own) for own in codes])
        rows = np.zeros((len(texts), n.max()), dtype=np.int64)
        columns = np.zeros((len(texts), t.max()), dtype=np.int64)
        for i, (text, own) in enumerate(zip(texts, codes, strict=True)):
            rows[i, : n[i]] = [characters.get(c, 0) for c in text]
            columns[i, : t[i]] = own
        return cls(rows, columns, n, t)

    def posteriors(self, emission: np.ndarray, jump: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """p(token t is said at character n | all tokens) (U, T, N), and the expected number of jumps (J,)."""
        num_tokens, width = self.codes.shape[1], self.characters.shape[1]
        inside = np.arange(width)[None, :] < self.num_characters[:, None]
        likely = emission[self.characters[:, None, :], self.codes[:, :, None]] * inside[:, None, :]  # (U, T, N)
        forward, scale = np.zeros_like(likely), np.ones(self.codes.shape)
        for t in range(num_tokens):
            # speech begins at one of the first characters and ends at one of the last
            before = _moved(forward[:, t - 1], jump) if t else (np.arange(width) <= MAX_JUMP)[None, :]
            forward[:, t] = before * likely[:, t]
            scale[:, t] = np.maximum(forward[:, t].sum(1), _TINY)
            forward[:, t] /= scale[:, t, None]
        last = (np.arange(width)[None, :] >= self.num_characters[:, None] - 1 - MAX_JUMP) * inside
        backward, jumps = np.zeros_like(likely), np.zeros(MAX_JUMP + 1)
        for t in range(num_tokens - 1, -1, -1):
            if t + 1 < num_tokens:
                ahead = backward[:, t + 1] * likely[:, t + 1] / scale[:, t + 1, None]
                backward[:, t] = _moved_back(ahead, jump)
                for j in range(min(MAX_JUMP + 1, width)):
                    jumps[j] += jump[j] * (forward[:, t, : width - j] * ahead[:, j:]).sum()
            ends = self.num_codes - 1 == t
            backward[ends, t] = last[ends]
        posterior = forward * backward
        posterior /= np.maximum(posterior.sum(2, keepdims=True), _TINY)
        return posterior, jumps

    def add_counts(self, posterior: np.ndarray, counts: np.ndarray) -> None:
        """Add expected (character, code) counts in place."""
        rows = np.broadcast_to(self.characters[:, None, :], posterior.shape)
        columns = np.broadcast_to(self.codes[:, :, None], posterior.shape)
        kept = posterior > 1e-4
        flat = rows[kept] * counts.shape[1] + columns[kept]
        counts += np.bincount(flat, posterior[kept], minlength=counts.size).reshape(counts.shape)


def _moved(state: np.ndarray, jump: np.ndarray) -> np.ndarray:
    """(U, N) after one jump."""
    out = state * jump[0]
    for j in range(1, len(jump)):
        out[:, j:] += state[:, :-j] * jump[j]
    return out


def _moved_back(state: np.ndarray, jump: np.ndarray) -> np.ndarray:
    """(U, N) before one jump."""
    out = state * jump[0]
    for j in range(1, len(jump)):
        out[:, :-j] += state[:, j:] * jump[j]
    return out


def _centres(posterior: np.ndarray) -> np.ndarray:
    """(tokens, characters) -> when each character is said: (characters,), by the expected path of the tokens."""
    tokens, characters = posterior.shape
    path = np.maximum.accumulate(posterior @ np.arange(characters))  # expected character of every token, never falling
    steps = path + np.arange(tokens) * 1e-6
    return np.interp(np.arange(characters), steps, np.arange(tokens) + 0.5)

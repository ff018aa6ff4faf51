"""Pairs of speakable text and speech tokens, and the vocabulary that holds both."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from transformers import PreTrainedTokenizerFast

from components.shared.contracts import SpeechTokens
from components.shared.speakable import speakable
from components.shared.tokens import add_speech, train_bpe


@dataclass(frozen=True, kw_only=True)
class Pair:
    """One utterance: what is said and its speech tokens."""

    id: str
    language: str
    text: str
    said: str
    """Speakable form of the text."""
    speaker: str
    codes: np.ndarray
    """(tokens,), uint16."""


def select(rows: Iterable[SpeechTokens], dropped: Counter[str]) -> dict[str, list[Pair]]:
    """Pairs of splits train and validation with human text, by split; what is left out is counted in dropped."""
    pairs: dict[str, list[Pair]] = {"train": [], "validation": []}
    for row in rows:
        if row.split not in pairs or row.text_source != "human" or row.text is None:
            continue
        said = speakable(row.text, row.language)
        if not said:
            dropped["unspeakable"] += 1
        elif not row.tokens:
            dropped["no_tokens"] += 1
        else:
            codes = np.array(row.tokens, dtype=np.uint16)
            pair = Pair(id=row.id, language=row.language, text=row.text, said=said, speaker=row.speaker, codes=codes)
            pairs[row.split].append(pair)
    return pairs


def main_speakers(pairs: list[Pair]) -> dict[str, str]:
    """Of each language the speaker with most pairs; the first by name when several have as many."""
    counts = Counter((pair.language, pair.speaker) for pair in pairs)
    best: dict[str, str] = {}
    for (language, speaker), count in sorted(counts.items()):
        if language not in best or count > counts[language, best[language]]:
            best[language] = speaker
    return best


def make_tokenizer(pairs: list[Pair], vocab_size: int, num_codes: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE of the texts and the speakers' names, then the special tokens and the speech tokens."""
    if vocab_size > 16384:
        raise ValueError(f"text_to_token.vocab_size: got {vocab_size}, wanted at most 16384")
    speakers = sorted({pair.speaker for pair in pairs})
    return add_speech(train_bpe([*(pair.said for pair in pairs), *speakers], vocab_size), num_codes)

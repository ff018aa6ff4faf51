"""Text on Whisper's side: prompts and labels for training, greedy decoding with a cache.

A transcript is <|startoftranscript|> <|en|> <|transcribe|> <|notimestamps|> text <|endoftext|>; a vocabulary without
languages (an English-only Whisper) has neither the language nor the task.
"""

from __future__ import annotations

import re
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch import Tensor

from components.shared.tokens import train_bpe
from components.speech_tokenizer.whisper_config import WhisperVQConfig
from components.speech_tokenizer.whisper_vq import Decoder

START, END, TASK, NO_TIMESTAMPS = "<|startoftranscript|>", "<|endoftext|>", "<|transcribe|>", "<|notimestamps|>"
LANGUAGE = re.compile(r"<\|([a-z]{2,3})\|>")
NO_LABEL = -100
"""Target of a position that costs nothing."""
TEXT_PER_S, TEXT_MORE = 12.5, 10
"""Decoding stops at so many text tokens a second of speech and so many more: three times fast speech."""

LONGEST_LOOP, SHORTEST_LOOPING = 24, 8
"""Text tokens of a phrase that is repeated, at most, and of all its repetitions together, at least."""
RECURRING = 6
"""A phrase of so many tokens is said twice at most in one utterance."""


class Transcripts:
    """The text tokenizer of a WhisperVQ with the ids of its prompts."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        known = tokenizer.get_vocab()
        missing = [token for token in (START, END, NO_TIMESTAMPS) if token not in known]
        if missing:
            raise ValueError(f"tokenizer.json: no token {missing[0]}; wanted the tokenizer of a Whisper")
        self.tokenizer = tokenizer
        self.start, self.end = known[START], known[END]
        found = {match.group(1): known[token] for token in known if (match := LANGUAGE.fullmatch(token))}
        self.languages: dict[str, int] = found if TASK in known else {}
        """Language -> its id; empty when the vocabulary knows none."""
        self.task = [known[TASK], known[NO_TIMESTAMPS]] if self.languages else [known[NO_TIMESTAMPS]]

    @classmethod
    def read(cls, path: Path) -> Transcripts:
        """From a tokenizer.json. Raises ValueError when it is missing or not one."""
        if not path.is_file():
            raise ValueError(f"{path}: no such file; transcribing needs the text tokenizer")
        return cls(Tokenizer.from_file(str(path)))

    def prompt(self, language: str) -> list[int]:
        """Ids before the text. Raises ValueError for a language that the vocabulary does not know."""
        if not self.languages:
            return [self.start, *self.task]
        if language not in self.languages:
            raise ValueError(f"language: got {language!r}, wanted one of {', '.join(sorted(self.languages))}")
        return [self.start, self.languages[language], *self.task]

    def ids(self, text: str, language: str) -> list[int]:
        """A whole transcript; spaced languages begin with a space, as Whisper writes them."""
        text = text.strip() if language in ("zh", "ja", "yue") else " " + text.strip()
        return [*self.prompt(language), *self.tokenizer.encode(text, add_special_tokens=False).ids, self.end]

    def text(self, ids: list[int]) -> str:
        """What ids say, without special tokens."""
        return self.tokenizer.decode(ids, skip_special_tokens=True).strip()


def train_tokenizer(texts: list[str], languages: list[str], vocab_size: int) -> Tokenizer:
    """A tokenizer for a random start: byte-level BPE of the texts and Whisper's special tokens."""
    tokenizer = train_bpe(texts, vocab_size).backend_tokenizer
    tokenizer.add_special_tokens([END, START, *[f"<|{code}|>" for code in languages], TASK, NO_TIMESTAMPS])
    return tokenizer


def batch_of(transcripts: list[list[int]], pad: int) -> tuple[Tensor, Tensor]:
    """Decoder inputs and targets (B, L) int64; targets are NO_LABEL in padding.

    The language is a target too, so that it can be told from the speech.
    """
    length = max(len(ids) for ids in transcripts) - 1
    inputs = torch.full((len(transcripts), length), pad)
    targets = torch.full((len(transcripts), length), NO_LABEL)
    for row, ids in enumerate(transcripts):
        inputs[row, : len(ids) - 1] = torch.tensor(ids[:-1])
        targets[row, : len(ids) - 1] = torch.tensor(ids[1:])
    return inputs, targets


@torch.no_grad()
def detect_languages(decoder: Decoder, states: Tensor, valid: Tensor, start: int, ids: dict[str, int]) -> list[str]:
    """The likeliest of some languages for each clip: states (B, K, D), valid (B, K) -> B names."""
    names, columns = list(ids), torch.tensor(list(ids.values()), device=states.device)
    first = torch.full((len(states), 1), start, device=states.device)
    logits = decoder(first, decoder.start(states), valid)[:, 0, columns]
    return [names[index] for index in logits.argmax(1).tolist()]


@torch.no_grad()
def decode_greedily(
    decoder: Decoder, states: Tensor, valid: Tensor, prompts: list[list[int]], config: WhisperVQConfig, end: int
) -> list[list[int]]:
    """The likeliest next token at every step: states (B, K, D), valid (B, K) bool, prompts of one length -> text ids.

    Clips that ended leave the batch. A clip ends at the latest at TEXT_PER_S tokens a second of its speech, or when its
    text goes round in circles, which small models do; of the circle one round is kept.
    """
    seconds = valid.sum(1) / config.tokens_per_s
    room = config.max_target_positions - len(prompts[0])
    limits = (seconds * TEXT_PER_S + TEXT_MORE).long().clamp(max=room).tolist()
    never = torch.tensor(config.suppress_tokens or [], dtype=torch.int64, device=states.device)
    never_first = torch.tensor(config.begin_suppress_tokens or [], dtype=torch.int64, device=states.device)
    found: list[list[int]] = [[] for _ in prompts]
    caches, rows = decoder.start(states), list(range(len(prompts)))
    ids = torch.tensor(prompts, device=states.device)
    step = 0
    while rows:
        logits = decoder(ids, caches, valid)[:, -1].float()
        logits[:, never] = -torch.inf
        if step == 0:
            logits[:, never_first] = -torch.inf
        ids = logits.argmax(1, keepdim=True)
        step += 1
        going = []
        for place, (row, token) in enumerate(zip(rows, ids[:, 0].tolist(), strict=True)):
            if token == end:
                continue
            found[row].append(token)
            if step < limits[row] and not _loops(found[row]):
                going.append(place)
        if len(going) < len(rows):
            rows = [rows[place] for place in going]
            kept = torch.tensor(going, dtype=torch.int64, device=states.device)
            ids, valid = ids[kept], valid[kept]
            for cache in caches:
                cache.keep(kept)
    return found


def _loops(ids: list[int]) -> bool:
    """Whether the text goes round in circles; cuts it to one round, in place.

    Its end is one phrase three times in a row (a single token eight times), or RECURRING tokens that it has had twice
    before, with whatever between.
    """
    for length in range(1, min(LONGEST_LOOP, len(ids) // 3) + 1):
        times = max(3, -(-SHORTEST_LOOPING // length))
        if len(ids) >= times * length and ids[-times * length :] == ids[-length:] * times:
            del ids[-(times - 1) * length :]
            return True
    end = ids[-RECURRING:]
    before = [start for start in range(len(ids) - 2 * RECURRING + 1) if ids[start : start + RECURRING] == end]
    if len(end) == RECURRING and len(before) > 1:
        del ids[before[1] :]
        return True
    return False

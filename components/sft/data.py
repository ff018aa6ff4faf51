"""Chats as packed batches: the order is a function of (seed, epoch), the loader's state is one integer."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from components.shared.contracts import Dialogue
from components.shared.formats import ChatTurn, Formats
from components.shared.packing import Piece, best_fit, collate, pack

WINDOW = 4096
"""Chats that are packed together."""


@dataclass(frozen=True)
class Chats:
    """The chats of one split as token ids."""

    pieces: list[Piece]
    """Source 0: the user speaks; 1: the user writes."""
    dropped_long: int
    """Dialogues that are longer than a sequence."""

    @property
    def num_learnt(self) -> int:
        """Tokens that one epoch learns."""
        return sum(int(piece.learn.sum()) for piece in self.pieces if piece.learn is not None)


def read_chats(
    rows: list[Dialogue], formats: Formats, system: str, written_share: float, sequence_length: int, seed: int
) -> Chats:
    """Every dialogue in the chat format; whether its user speaks or writes depends on its id."""
    pieces, dropped = [], 0
    for row in rows:
        digest = hashlib.blake2b(f"{seed} written {row.id}".encode(), digest_size=8).digest()
        writes = int.from_bytes(digest) / 2**64 < written_share
        turns = [ChatTurn(role="system", text=system, codes=[])]
        for turn in row.turns:
            spoken = turn.role == "assistant" or not writes
            turns.append(ChatTurn(role=turn.role, text=turn.text, codes=turn.tokens if spoken else []))
        ids, learn = formats.chat(turns)
        if len(ids) > sequence_length:
            dropped += 1
            continue
        pieces.append(Piece(np.array(ids, np.int64), int(writes), np.array(learn)))
    return Chats(pieces, dropped)


@dataclass
class ChatLoader:
    """Batches of packed chats, epoch after epoch; every epoch in another order."""

    chats: Chats
    sequence_length: int
    pad_id: int
    batch_size: int
    num_batches: int
    seed: int
    position: int = 0

    def __len__(self) -> int:
        """Batches of the whole run, also after a resume."""
        return self.num_batches

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """The batches that are left; all of them when none is: a trainer stops at the last without asking for more."""
        if self.position >= self.num_batches:
            self.position = 0
        epoch, first = 0, 0
        packed = self.packed(epoch)
        while self.position < self.num_batches:
            number = self.position
            while (number - first) * self.batch_size >= len(packed):
                first += math.ceil(len(packed) / self.batch_size)
                epoch += 1
                packed = self.packed(epoch)
            start = (number - first) * self.batch_size
            part = packed[start : start + self.batch_size]
            part = part + [[]] * (self.batch_size - len(part))  # the last batch of an epoch is filled with padding
            self.position += 1
            yield {**collate([self._sequence(numbers) for numbers in part]), "number": number}

    def packed(self, epoch: int) -> list[list[int]]:
        """The sequences of an epoch as numbers of chats."""
        rng = np.random.default_rng([self.seed, epoch])
        order = rng.permutation(len(self.chats.pieces))
        sequences = []
        for start in range(0, len(order), WINDOW):
            window = order[start : start + WINDOW]
            lengths = np.array([len(self.chats.pieces[i].token_ids) for i in window])
            sequences += [[int(window[i]) for i in one] for one in best_fit(lengths, self.sequence_length)]
        return [sequences[i] for i in rng.permutation(len(sequences))]

    def _sequence(self, numbers: list[int]) -> dict[str, np.ndarray]:
        pieces = [self.chats.pieces[number] for number in numbers]
        return pack(pieces, self.sequence_length, self.pad_id, attend_across=False)

    def state_dict(self) -> dict[str, int]:
        """The number of the next batch."""
        return {"position": self.position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on from a state."""
        self.position = state["position"]


def batches_of(chats: Chats, sequence_length: int, batch_size: int, seed: int, num_epochs: int) -> int:
    """Batches of num_epochs epochs."""
    loader = ChatLoader(chats, sequence_length, 0, batch_size, 0, seed)
    return sum(math.ceil(len(loader.packed(epoch)) / batch_size) for epoch in range(num_epochs))

"""Spoken items by their utterance ids: speech tokens, texts and waves."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from components.shared.audio import read_wave
from components.shared.contracts import SpeechTokens, Utterance, from_table
from components.shared.manifest import inside, read_shards
from components.shared.places import Inputs
from components.shared.recognizer import normalize_text

SEEN, UNSEEN = "seen", "unseen"


@dataclass
class Speech:
    """Utterances and how to hear them."""

    inputs: Inputs
    rows: dict[str, SpeechTokens]
    """Utterance id -> its row of data/tokenize/tokens."""

    def __contains__(self, name: str) -> bool:
        return name in self.rows

    def tokens(self, name: str) -> list[int]:
        """Code numbers of an utterance."""
        return self.rows[name].tokens

    def wave(self, name: str, sample_rate_hz: int | None = None) -> tuple[np.ndarray, int]:
        """The sound of an utterance: (samples,), float32, -1..1, and its rate in Hz."""
        return read_wave(inside(self._folder, self._audio[name]), sample_rate_hz)

    @cached_property
    def _folder(self) -> Path:
        """Where the sound is; opened once, since its manifest names every file."""
        return self.inputs.folder("collect", "utterances")

    @cached_property
    def _audio(self) -> dict[str, str]:
        """Utterance id -> path, read when a wave is first asked for."""
        names = pa.array(self.rows)
        paths: dict[str, str] = {}
        for table in read_shards(self._folder, Utterance):
            kept = table.filter(pc.is_in(table["id"], names))
            paths |= dict(zip(kept["id"].to_pylist(), kept["audio"].to_pylist(), strict=True))
        return paths


def read_speech(inputs: Inputs, names: Collection[str]) -> Speech:
    """The speech tokens of these utterances; those that tokenize did not keep are missing from the answer."""
    wanted = pa.array(sorted(names), pa.string())
    rows: dict[str, SpeechTokens] = {}
    for table in read_shards(inputs.folder("tokenize", "tokens"), SpeechTokens):
        for row in from_table(table.filter(pc.is_in(table["id"], wanted)), SpeechTokens):
            rows[row.id] = row
    return Speech(inputs, rows)


def read_split(inputs: Inputs, split: str) -> Speech:
    """Every utterance of a split that has a human or pseudo text."""
    rows: dict[str, SpeechTokens] = {}
    for table in read_shards(inputs.folder("tokenize", "tokens"), SpeechTokens):
        for row in from_table(table.filter(pc.equal(table["split"], split)), SpeechTokens):
            if row.text:
                rows[row.id] = row
    return Speech(inputs, rows)


def train_speakers(inputs: Inputs) -> set[str]:
    """Speakers with at least one utterance of training."""
    speakers: set[str] = set()
    for table in read_shards(inputs.folder("tokenize", "tokens"), SpeechTokens):
        speakers |= set(table.filter(pc.equal(table["split"], "train"))["speaker"].unique().to_pylist())
    return speakers


def voice_group(row: SpeechTokens, seen: set[str]) -> str:
    """What is reported apart: recorded_seen, synthesized_unseen and so on."""
    return f"{row.origin}_{SEEN if row.speaker in seen else UNSEEN}"


def train_texts(inputs: Inputs) -> set[str]:
    """Normalised texts of all utterances of training."""
    texts: set[str] = set()
    for table in read_shards(inputs.folder("tokenize", "tokens"), SpeechTokens):
        rows = table.filter(pc.equal(table["split"], "train")).select(["text", "language"]).to_pylist()
        texts |= {normalize_text(row["text"], row["language"]) for row in rows if row["text"]}
    return texts


def unheard(speech: Speech, train: set[str]) -> Speech:
    """Without the utterances whose text training said too: short answers often are."""
    rows = {name: row for name, row in speech.rows.items() if normalize_text(row.text or "", row.language) not in train}
    return Speech(speech.inputs, rows)

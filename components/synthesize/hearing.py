"""A sample of what was generated, as the speech tokenizer hears it and as a reader sees it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch

from components.shared.contracts import Interleaved, Segment, from_table
from components.shared.places import Inputs
from components.shared.recognizer import normalize_text, word_error_rate
from components.shared.tracking import Tracker
from components.synthesize.config import SynthesizeConfig

NUM_SHOWN = 5


@dataclass(frozen=True, kw_only=True)
class Heard:
    """Error rates of the sampled spans."""

    shards: list[dict[str, float]]
    """wer (words and characters together) of every shard; empty where it has no span with words, which its gate counts
    as broken."""
    figures: dict[str, float]
    """wer_en and cer_zh over all shards, as far as the languages occur."""


def hear(paths: list[Path], config: SynthesizeConfig, inputs: Inputs, tracker: Tracker) -> Heard:
    """Transcribe heard_per_shard spans of every shard and compare them with their texts."""
    sample = [(number, *pick) for number, path in enumerate(paths) for pick in _pick(path, config)]
    if not sample:
        return Heard(shards=[{} for _ in paths], figures={})
    from components.speech_tokenizer.model import load

    ear = load(inputs.folder("speech_tokenizer", "model"))
    codes = [torch.tensor(segment.tokens, dtype=torch.long) for _, _, segment in sample]
    languages = [language for _, language, _ in sample]
    texts = ear.transcribe(codes, languages)
    errors = [
        word_error_rate([segment.text], [text], language)
        for (_, language, segment), text in zip(sample, texts, strict=True)
    ]
    shards: list[dict[str, float]] = []
    for shard in range(len(paths)):
        own = [error for error, (number, _, _) in zip(errors, sample, strict=True) if number == shard]
        length = sum(error.length for error in own)
        shards.append({"wer": sum(error.errors for error in own) / length} if length else {})
    figures = {}
    for language in sorted(set(languages)):
        own = [error for error, spoken in zip(errors, languages, strict=True) if spoken == language]
        name = f"cer_{language}" if language == "zh" else f"wer_{language}"
        figures[name] = sum(error.errors for error in own) / max(1, sum(error.length for error in own))
    lines = [
        f"asked {segment.text.strip()}\nheard {text}\n" for (_, _, segment), text in zip(sample, texts, strict=True)
    ]
    tracker.log_text("\n".join(lines), "heard.txt")
    return Heard(shards=shards, figures=figures)


def _pick(path: Path, config: SynthesizeConfig) -> list[tuple[str, Segment]]:
    """(language, segment) of a shard's sampled spans, the same ones whenever the shard is the same.

    Only spans of which an ear would write something ("hmm" is nothing to a normaliser), so that a shard with speech has
    an error rate.
    """
    rows = from_table(pq.read_table(path), Interleaved)
    spans = [(row.language, s) for row in rows for s in row.segments if s.modality == "speech"]
    rng = np.random.default_rng([config.seed, len(spans)])
    picked: list[int] = []
    for place in rng.permutation(len(spans)).tolist():
        if len(picked) == config.heard_per_shard:
            break
        language, segment = spans[place]
        if normalize_text(segment.text, language):
            picked.append(place)
    return [spans[place] for place in sorted(picked)]


def show(paths: list[Path], tracker: Tracker) -> None:
    """A few documents to read: speech spans in brackets with their number of tokens."""
    lines = []
    for row in from_table(pq.read_table(paths[0]), Interleaved)[:NUM_SHOWN]:
        parts = [
            segment.text if segment.modality == "text" else f" [{segment.text.strip()} | {len(segment.tokens)}]"
            for segment in row.segments
        ]
        lines.append(f"{row.id}\n{''.join(parts)}\n")
    tracker.log_text("\n".join(lines), "interleaved.txt")

"""The speech tokenizer: what its tokens alone still say, beside the Whisper it started from, and its codebook."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
import pyarrow.compute as pc
import torch

from components.evaluate import benchmarks
from components.evaluate.config import EvaluateConfig
from components.evaluate.evaluation import Evaluation, by_language, error_score, kept
from components.evaluate.samples import SampleBook
from components.evaluate.selection import choose_each
from components.evaluate.speech import Speech, read_split, train_speakers, train_texts, unheard, voice_group
from components.shared.audio import WHISPER_RATE_HZ
from components.shared.contracts import SpeechTokens
from components.shared.manifest import read_manifest, read_shards
from components.shared.places import Inputs
from components.shared.recognizer import Recognizer
from components.shared.tracking import Tracker


def evaluate(config: EvaluateConfig, inputs: Inputs, book: SampleBook, tracker: Tracker) -> Evaluation:
    """WER and CER of transcripts made from tokens, on utterances whose text and sound training never had.

    Groups: recorded or synthesised with the speaker seen or unseen in training, and each of these by corpus; as many
    utterances of every corpus. The baseline is the un-quantised Whisper (config.start) on the same utterances' sound.
    Public test sets (config.benchmarks) come on top, a group a part; a folder that is not right ends the run at once.
    """
    from components.speech_tokenizer.model import load

    public = benchmarks.read(config, inputs.data.parent, tracker, benchmarks.HEARD)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    tokenizer = load(inputs.folder("speech_tokenizer", "model"), device)
    whisper = Recognizer(config.start, device)
    everything, seen = read_split(inputs, config.split.value), train_speakers(inputs)
    speech = unheard(everything, train_texts(inputs))
    chosen = choose_each(
        list(speech.rows.values()),
        config.num_utterances or len(speech.rows),
        seed=config.seed,
        key=lambda row: row.id,
        group=lambda row: f"{row.language}_{voice_group(row, seen)}_{row.corpus}",
    )
    tracker.say(f"transcription: {len(chosen)} of {len(speech.rows)} utterances whose text was not in training")
    said = tokenizer.transcribe([torch.tensor(row.tokens) for row in chosen], [row.language for row in chosen])
    heard = hear(whisper, speech, chosen, tracker)
    scores = kept(
        [
            error_score(
                row,
                task="transcription",
                groups=[voice_group(row, seen), f"{voice_group(row, seen)}_{row.corpus}"],
                reference=row.text or "",
                answer=answer,
                beside=beside,
            )
            for row, answer, beside in zip(chosen, said, heard, strict=True)
        ]
    )
    show(book, speech, chosen, said, heard, config)
    counts = code_counts(inputs)
    metrics = codebook_metrics(counts, tokenizer.tokens_per_s)
    metrics["dropped_text_in_training"] = float(len(everything.rows) - len(speech.rows))
    found = benchmarks.evaluate(public, tokenizer, whisper, seen, tracker)
    scores, metrics = scores + found.scores, metrics | found.metrics
    return Evaluation(scores=scores, metrics=metrics, files={"codebook.json": {"counts": counts.tolist()}})


def hear(recognizer: Recognizer, speech: Speech, rows: Sequence[SpeechTokens], tracker: Tracker) -> list[str]:
    """What a recogniser makes of the sound of each utterance."""
    texts = [""] * len(rows)
    for language, places in by_language(rows).items():
        waves = [speech.wave(rows[place].id, WHISPER_RATE_HZ)[0] for place in places]
        shown = partial(tracker.progress, what=f"transcription: Whisper hears {language}")
        heard = recognizer.transcribe(waves, WHISPER_RATE_HZ, language, shown)
        for place, text in zip(places, heard, strict=True):
            texts[place] = text
    return texts


def show(
    book: SampleBook,
    speech: Speech,
    rows: Sequence[SpeechTokens],
    said: Sequence[str],
    heard: Sequence[str],
    config: EvaluateConfig,
) -> None:
    """A few of every language and origin, recordings and syntheses in turn."""
    each = max(1, config.num_samples // max(1, len({(row.language, row.origin) for row in rows})))
    places = choose_each(
        range(len(rows)),
        each,
        seed=config.seed,
        key=lambda place: rows[place].id,
        group=lambda place: f"{rows[place].language}_{rows[place].origin}",
    )
    for place in places[: config.num_samples]:
        row = rows[place]
        texts = {"said": row.text or "", "from tokens": said[place], "Whisper": heard[place]}
        book.add(f"{row.origin}, {row.speaker}", row.language, texts, {"original": speech.wave(row.id)}, key=row.id)


def code_counts(inputs: Inputs) -> np.ndarray:
    """How often each code occurs in all speech of the run: (num_codes,) int64."""
    folder = inputs.folder("tokenize", "tokens")
    counts = np.zeros(int(read_manifest(folder).extra["num_codes"]), dtype=np.int64)
    for table in read_shards(folder, SpeechTokens):
        codes = pc.list_flatten(table["tokens"]).to_numpy()
        counts += np.bincount(codes, minlength=len(counts))
    return counts


def codebook_metrics(counts: np.ndarray, tokens_per_s: float) -> dict[str, float]:
    """Share of the codes that occur, the perplexity of their distribution, the rate in bits: (num_codes,) -> figures.

    The rate is that of codes written in equally many bits each, log2(num_codes).
    """
    shares = counts[counts > 0] / max(1, counts.sum())
    return {
        "codebook_use": float((counts > 0).mean()),
        "codebook_bits_per_s": float(tokens_per_s * np.log2(len(counts))),
        "codebook_perplexity": float(np.exp(-(shares * np.log(shares)).sum())),
        "codebook_tokens": float(counts.sum()),
    }

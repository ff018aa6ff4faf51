"""What stands on the page, gathered from the files that stages left in data/."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup, escape

from components.report.charts import interval_chart, usage_chart
from components.report.sounds import data_uri, to_mp3
from components.report.spectrogram import spectrogram_png
from components.report.table import Figure
from components.shared.audio import read_wave
from components.shared.contracts import Sample, SampleText
from components.shared.manifest import NAME, inside, read_json, read_table
from components.shared.places import Inputs

STAGES = (
    *("collect", "speech_tokenizer", "tokenize", "text_to_token", "synthesize", "mix"),
    *("pretrain", "dialogues", "sft", "speech_decoder"),
)
SHELVES = {
    ("speech_decoder", ""): (
        "Re-synthesised speech",
        "The recording, its speech tokens decoded to sound again, its mel spectrogram through the same vocoder, and "
        "the same sentence said by the text-to-token model. The judges' scores stand beside those that were judged.",
    ),
    ("speech_decoder", "interleaved"): (
        "Interleaved documents",
        "Whole documents that the language model learnt from: text stays text, a marked span was replaced by as many "
        "speech tokens as it says, without making sound. Numbered spans are decoded here, to be heard, and transcribed "
        "by the speech tokenizer.",
    ),
    ("sft", ""): ("Chat", "A spoken question, the model's reply in text and in speech."),
    ("speech_tokenizer", ""): (
        "Heard by the tokenizer",
        "What was said, what the tokens alone were transcribed to, and what the un-quantised Whisper heard.",
    ),
    ("text_to_token", ""): ("Text to token", "Sentences said without sound: what their tokens are transcribed to."),
    ("pretrain", ""): ("Stories and questions", "What the language model heard, and the answer it found likeliest."),
}
"""(Model, shelf of its samples) -> name and description."""
HEADLINES = (
    ("transcription_wer_synthesized_unseen", "word errors of the speech tokenizer on a voice it never heard"),
    ("generation_wer_sentences", "word errors of tokens made from unseen text"),
    ("story_s_to_t", "right ending of a spoken story, in text"),
    ("question_s_to_t_spoken", "right answer to a spoken question, in text"),
    ("question_s_to_t_withheld", "the same on facts that speech never stated"),
    ("resynthesis_wer_synthesized_seen", "word errors of decoded speech"),
)


@dataclass(frozen=True, kw_only=True)
class Sound:
    """One sound to play."""

    label: str
    duration_s: float
    source: str
    """Data URI of an MP3 file."""
    image: str
    """Data URI of the spectrogram."""


@dataclass(frozen=True, kw_only=True)
class Card:
    """One sample as it is shown."""

    title: str
    language: str
    texts: list[SampleText]
    sounds: list[Sound]


@dataclass(frozen=True, kw_only=True)
class Shelf:
    """Samples of one model."""

    name: str
    about: str
    samples: list[Card]


def tiles(figures: list[Figure], story: dict[str, Any]) -> list[dict[str, str]]:
    """The headline numbers: those of HEADLINES that were measured. story: metrics of evaluate@pretrain."""
    found = {figure.line.metric: figure for figure in figures}
    shown = []
    for metric, label in HEADLINES:
        figure = found.get(metric)
        if figure is not None:
            beside = f"95%: {figure.interval}"
            if figure.baseline is not None:
                beside += f"; {figure.line.beside}: {figure.show(figure.baseline)}"
            shown.append({"label": label, "value": figure.show(figure.value), "beside": beside})
        elif metric in story:
            value, low, high = (f"{100 * story[name]:.1f}%" for name in (metric, f"{metric}_low", f"{metric}_high"))
            beside = f"95%: {low} – {high}; best guess without the story: {100 * story[f'{metric}_chance']:.1f}%"
            shown.append({"label": label, "value": value, "beside": beside})
    return shown


def sections(figures: list[Figure]) -> list[dict[str, str]]:
    """A chart for every section of the table that has shares in it."""
    names = dict.fromkeys(figure.line.section for figure in figures)
    charts = {name: [f for f in figures if f.line.section == name and f.line.share] for name in names}
    return [{"name": name, "chart": interval_chart(rows)} for name, rows in charts.items() if rows]


def shelves(inputs: Inputs, *, max_samples: int, max_sounds_mb: float) -> tuple[list[Shelf], int]:
    """The samples of every evaluated model with their sounds inside, and how many were left out for their size."""
    made, left_out, used = [], 0, 0
    for (model, shelf), (name, about) in SHELVES.items():
        if not (inputs.data / "evaluate" / model / "samples" / NAME).is_file():
            continue
        folder = inputs.folder(f"evaluate/{model}", "samples")
        cards = []
        for sample in _on_shelf(folder, model, shelf)[:max_samples]:
            sounds = [_sound(folder, sound.label, sound.audio) for sound in sample.sounds]
            size = sum(3 * len(sound.source + sound.image) // 4 for sound in sounds)
            if used + size > max_sounds_mb * 1e6:
                left_out += 1
                continue
            used += size
            cards.append(Card(title=sample.title, language=sample.language, texts=sample.texts, sounds=sounds))
        if cards:
            made.append(Shelf(name=name, about=about, samples=cards))
    return made, left_out


def _on_shelf(folder: Path, model: str, shelf: str) -> list[Sample]:
    """The samples of a shelf. Raises ValueError when one stands on a shelf that the page does not have."""
    samples = list(read_table(folder, Sample))
    for sample in samples:
        if (model, sample.shelf) not in SHELVES:
            known = ", ".join(repr(name) for other, name in SHELVES if other == model)
            raise ValueError(f"{folder}: sample {sample.id}: got shelf {sample.shelf!r}, wanted one of {known}")
    return [sample for sample in samples if sample.shelf == shelf]


def _sound(folder: Path, label: str, audio: str) -> Sound:
    wave, rate_hz = read_wave(inside(folder, audio))
    return Sound(
        label=label,
        duration_s=len(wave) / rate_hz,
        source=data_uri(to_mp3(wave, rate_hz), "audio/mpeg"),
        image=data_uri(spectrogram_png(wave, rate_hz), "image/png"),
    )


def mark_spans(text: str) -> Markup:
    """A text as HTML, all of it escaped, with what stands in ⟦ ⟧ as marked text."""
    parts = re.split(r"⟦([^⟦⟧]*)⟧", text)
    marked = Markup("<mark>{}</mark>")
    return Markup("").join(marked.format(part) if number % 2 else escape(part) for number, part in enumerate(parts))


def codebook(inputs: Inputs) -> str:
    """Chart of how often each code occurs, or an empty string when the tokenizer was not evaluated."""
    if not (inputs.data / "evaluate" / "speech_tokenizer" / "scores" / NAME).is_file():
        return ""
    folder = inputs.folder("evaluate/speech_tokenizer", "scores")
    return usage_chart(read_json(folder / "codebook.json")["counts"])


def speech_rows(collected: dict[str, float]) -> list[tuple[str, str, str]]:
    """(corpus, utterances, hours) of every corpus of recordings, from collect's metrics."""
    prefix = "utterances_corpus_"
    names = [name.removeprefix(prefix) for name in sorted(collected) if name.startswith(prefix)]
    return [
        (name, show(collected[prefix + name]), f"{collected.get(f'hours_corpus_{name}', 0.0):.2f}") for name in names
    ]


def mixture_rows(mixed: dict[str, float]) -> list[tuple[str, str, str, str]]:
    """(source, planned share, achieved share, epochs) of pre-training's mixture, from mix's metrics."""
    prefix = "planned_share_"
    names = [name.removeprefix(prefix) for name in mixed if name.startswith(prefix)]
    return [
        (
            name,
            f"{100 * mixed[prefix + name]:.1f}%",
            f"{100 * mixed.get(f'achieved_share_{name}', 0.0):.1f}%",
            f"{mixed.get(f'epochs_{name}', 0.0):.2f}",
        )
        for name in names
    ]


def numbers(metrics: dict[str, dict[str, float]]) -> list[dict[str, Any]]:
    """All figures of every stage as (name, value) rows."""
    return [
        {"name": stage, "rows": [(name.replace("_", " "), show(value)) for name, value in sorted(rows.items())]}
        for stage, rows in metrics.items()
    ]


def show(value: float) -> str:
    """A number for a reader: 12,345 or 0.1234."""
    return f"{value:,.0f}" if float(value).is_integer() or abs(value) >= 1e5 else f"{value:,.4g}"

"""What the model's speech tokens sound like to the speech tokenizer: the text it hears beside the one asked for.

Heard are unseen sentences and unseen spans, the parts of sentences that synthesis will ask for. The real tokens of
either are heard as well, so that the model's errors can be told from the ear's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from components.shared.engine import STOP, Completion, Engine
from components.shared.recognizer import error_measure, normalize_text, word_error_rate
from components.shared.tracking import Tracker
from components.shared.words import cut_at_sentences, draw_span, words
from components.text_to_token.alignment import Alignment
from components.text_to_token.config import TextToTokenConfig
from components.text_to_token.crossing import edges_of
from components.text_to_token.model import TextToToken
from components.text_to_token.pairs import Pair

SENTENCES, SPANS = "sentences", "spans"
Transcribe = Callable[[list[torch.Tensor], list[str]], list[str]]
"""Codes (tokens,) int64 of utterances and their languages -> texts."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """Something that the model is asked to say."""

    id: str
    kind: str
    """SENTENCES or SPANS."""
    language: str
    text: str
    """What an ear should write."""
    said: str
    """What the model is given: the spoken form."""
    codes: np.ndarray
    """(tokens,), uint16: real speech of the same words."""


def ask(pairs: list[Pair], alignment: Alignment, mean_span: float, seed: int) -> list[Asked]:
    """Every pair whole and, after them, a span of each that has two words and speech.

    mean_span: in words. A span ends with its sentence, as synthesis says it. What an ear would not write, such as
    "hmm", is passed over.
    """
    pairs = [pair for pair in pairs if normalize_text(pair.text, pair.language)]
    whole = [
        Asked(id=p.id, kind=SENTENCES, language=p.language, text=p.text, said=p.said, codes=p.codes) for p in pairs
    ]
    times = alignment.times([pair.said for pair in pairs], [pair.codes for pair in pairs])
    spans = [
        _span(pair, edges_of(own, len(pair.codes)), mean_span, np.random.default_rng([seed, number]))
        for number, (pair, own) in enumerate(zip(pairs, times, strict=True))
    ]
    return whole + [span for span in spans if span is not None]


def _span(pair: Pair, edges: np.ndarray, mean_span: float, rng: np.random.Generator) -> Asked | None:
    """Some words of a pair and the tokens that say them; edges: see crossing.Spoken."""
    places = words(pair.said)
    drawn = draw_span(len(places), mean_span, rng)
    if drawn is None:
        return None
    start, stop = places[drawn[0]][0], places[drawn[1] - 1][1]
    pieces = cut_at_sentences(pair.said[start:stop])
    longest = max(range(len(pieces)), key=lambda number: len(pieces[number]))
    start += sum(len(piece) for piece in pieces[:longest])
    first, last = (round(float(edges[place])) for place in (start, start + len(pieces[longest])))
    text = pieces[longest].strip()
    if first == last or not normalize_text(text, pair.language):
        return None
    return Asked(
        id=f"{pair.id}:{start}", kind=SPANS, language=pair.language, text=text, said=text, codes=pair.codes[first:last]
    )


def hear(
    model: TextToToken,
    engine: Engine,
    transcribe: Transcribe,
    asked: list[Asked],
    config: TextToTokenConfig,
    tracker: Tracker,
) -> tuple[list[dict[str, float]], dict[str, float]]:
    """(one record an item, figures over all): what the model's main speakers say, transcribed.

    Figures: wer_sentences and wer_spans (cer in Mandarin), each with _real_tokens; length_ratio, tokens over those of
    real speech, in all and of either kind; the shares finished and faulty.
    """
    asked = [one for one in asked if one.language in model.main_speakers]
    if not asked:
        return [], {}
    requests = [
        model.request(
            f"{one.kind}/{one.id}",
            one.said,
            one.language,
            speaker=model.main_speakers[one.language],
            seed=config.seed + number,
            temperature=config.temperature,
            top_p=config.top_p,
        )
        for number, one in enumerate(asked)
    ]
    completions = engine.generate_all(requests)
    codes = [model.codes(completion.token_ids) for completion in completions]
    languages = [one.language for one in asked]
    said = transcribe([torch.tensor(made, dtype=torch.long) for made in codes], languages)
    real = transcribe([torch.from_numpy(one.codes.astype(np.int64)) for one in asked], languages)
    rows = [
        _row(one, made, (heard, beside), completion, model)
        for one, made, heard, beside, completion in zip(asked, codes, said, real, completions, strict=True)
    ]
    tracker.log_text("".join(_lines(*item) for item in zip(asked, said, real, strict=True)), "heard.txt")
    figures = {name: float(np.mean([row[name] for row in rows])) for name in ("finished", "faulty")}
    return rows, figures | _length_ratios(asked, codes) | _error_rates(asked, said, real)


def _row(
    one: Asked, made: list[int], heard: tuple[str, str], completion: Completion, model: TextToToken
) -> dict[str, float]:
    """What the gate of the stage sees of an item; heard: of the tokens made, and of the real ones."""
    wer, beside = (word_error_rate([one.text], [text], one.language).rate for text in heard)
    return {
        "is_span": float(one.kind == SPANS),
        "wer": wer,
        "wer_beyond_real": wer - beside,
        "length_ratio": len(made) / len(one.codes),
        "finished": float(completion.finish_reason == STOP),
        "faulty": float(bool(model.fault(one.said, one.language, completion))),
        "num_tokens": float(len(made)),
    }


def _lines(one: Asked, said: str, real: str) -> str:
    """An item to read."""
    texts = {"asked": one.text, "heard": said, "real tokens": real}
    shown = "".join(f"  {label} {normalize_text(text, one.language)}\n" for label, text in texts.items())
    return f"{one.id} ({one.kind})\n{shown}"


def _length_ratios(asked: list[Asked], codes: list[list[int]]) -> dict[str, float]:
    """Tokens made over tokens of real speech."""
    figures = {}
    for name, kinds in (("", (SENTENCES, SPANS)), (f"_{SENTENCES}", (SENTENCES,)), (f"_{SPANS}", (SPANS,))):
        chosen = [i for i, one in enumerate(asked) if one.kind in kinds]
        if chosen:
            real = sum(len(asked[i].codes) for i in chosen)
            figures[f"length_ratio{name}"] = sum(len(codes[i]) for i in chosen) / real
    return figures


def _error_rates(asked: list[Asked], said: list[str], real: list[str]) -> dict[str, float]:
    """Of sentences and spans, words and characters apart."""
    figures = {}
    groups = sorted({(error_measure(one.language), one.kind) for one in asked})
    for measure, kind in groups:
        chosen = [i for i, one in enumerate(asked) if (error_measure(one.language), one.kind) == (measure, kind)]
        for name, heard in (("", said), ("_real_tokens", real)):
            errors = [word_error_rate([asked[i].text], [heard[i]], asked[i].language) for i in chosen]
            length = sum(error.length for error in errors)
            figures[f"{measure}_{kind}{name}"] = sum(error.errors for error in errors) / max(1, length)
    return figures

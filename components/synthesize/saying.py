"""Pieces of text go to the engine and come back as speech codes; what fails is said once more with another seed."""

from __future__ import annotations

from collections import Counter

from components.shared.engine import Engine
from components.synthesize.config import SynthesizeConfig
from components.synthesize.seeds import seed_of
from components.synthesize.spans import Piece, Plan
from components.text_to_token.model import FAULTS, TextToToken, num_words

DROPPED_SPANS = ("foreign", *FAULTS)
"""Why a span stays text."""


def say(plans: list[Plan], language: str, config: SynthesizeConfig, model: TextToToken, engine: Engine) -> Counter[str]:
    """Fill in the codes of every piece of these documents of one language, and count.

    What cannot be speech of its text is said again at config.retry_temperature; what fails then stays text.
    """
    spans = [span for plan in plans for span in plan.spans]
    for span in spans:
        span.fault = "" if all(model.pace.can_say(piece.said, language) for piece in span.pieces) else "foreign"
    waiting = [piece for span in spans if not span.fault for piece in span.pieces]
    counts: Counter[str] = Counter(documents=len(plans), spans=len(spans), pieces=len(waiting))
    speaker = model.main_speakers[language] if config.name_speaker else None
    for attempt, temperature in enumerate((config.temperature, config.retry_temperature)):
        _attempt(waiting, attempt, temperature, speaker, language, config, model, engine)
        counts["generated_tokens"] += sum(len(piece.codes) for piece in waiting)
        waiting = [piece for piece in waiting if piece.fault]
        counts["said_again"] += len(waiting) if attempt == 0 else 0
    for span in spans:
        span.fault = next((piece.fault for piece in span.pieces if piece.fault), span.fault)
    counts["words"] = sum(plan.num_words for plan in plans)
    good = [span for span in spans if not span.fault]
    counts["speech_words"] = sum(span.num_words for span in good)
    counts["said_words"] = int(num_words([piece.said for span in good for piece in span.pieces]).sum())
    counts["speech_tokens"] = sum(len(piece.codes) for span in good for piece in span.pieces)
    counts.update(f"dropped_{span.fault}" for span in spans if span.fault)
    return counts


def _attempt(
    pieces: list[Piece],
    attempt: int,
    temperature: float,
    speaker: str | None,
    language: str,
    config: SynthesizeConfig,
    model: TextToToken,
    engine: Engine,
) -> None:
    """Say the pieces, all in one batch, and judge them."""
    lines = model.lines([piece.said for piece in pieces], language)
    requests = [
        model.request_of(piece.key, line, speaker, seed_of(config.seed, piece.key, attempt), temperature, config.top_p)
        for piece, line in zip(pieces, lines, strict=True)
    ]
    judged = model.judge(lines, engine.generate_all(requests))
    for piece, (codes, fault) in zip(pieces, judged, strict=True):
        piece.codes = codes
        piece.fault = "" if config.keep_faulty and len(codes) else fault

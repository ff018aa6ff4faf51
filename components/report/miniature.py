"""What is small about this run, and how to read its figures: said plainly, with the paper's numbers beside."""

from __future__ import annotations

from dataclasses import dataclass

Metrics = dict[str, dict[str, float]]
"""Stage -> name -> value."""


@dataclass(frozen=True, kw_only=True)
class Size:
    """One line of the comparison with the paper's run."""

    what: str
    stage: str
    names: tuple[str, ...]
    """Figures of the stage that add up to it; those that it did not record count for nothing."""
    unit: str
    paper: str


SIZES = (
    Size(what="Speech", stage="collect", names=("hours",), unit="hours", paper="over 700,000 hours"),
    Size(
        what="Text",
        stage="collect",
        names=("words_en", "words_zh"),
        unit="words and characters",
        paper="FineWeb-Edu and Chinese-FineWeb-Edu",
    ),
    Size(
        what="Speech tokenizer",
        stage="speech_tokenizer",
        names=("num_codes",),
        unit="codes, 12.5 a second",
        paper="16,384 codes, 12.5 a second, from Whisper-large-v3",
    ),
    Size(
        what="Text-to-token model",
        stage="text_to_token",
        names=("num_parameters",),
        unit="parameters",
        paper="1.5 billion parameters",
    ),
    Size(
        what="Interleaved documents",
        stage="synthesize",
        names=("speech_tokens",),
        unit="speech tokens",
        paper="600 billion tokens, text and speech",
    ),
    Size(
        what="Language model",
        stage="pretrain",
        names=("num_parameters",),
        unit="parameters",
        paper="9 billion parameters, from a pre-trained text LM",
    ),
    Size(what="Pre-training", stage="mix", names=("total_tokens",), unit="tokens", paper="1 trillion tokens"),
    Size(
        what="Spoken dialogues",
        stage="dialogues",
        names=("num_dialogues",),
        unit="dialogues",
        paper="number not known to us",
    ),
    Size(
        what="Speech decoder",
        stage="speech_decoder",
        names=("num_parameters",),
        unit="parameters, Griffin-Lim as vocoder",
        paper="CosyVoice's flow matching with a HiFT vocoder",
    ),
)


def sizes(metrics: Metrics) -> list[dict[str, str]]:
    """The lines of SIZES that were recorded, each with the paper's number."""
    rows = []
    for size in SIZES:
        found = [metrics.get(size.stage, {})[name] for name in size.names if name in metrics.get(size.stage, {})]
        if found:
            rows.append({"what": size.what, "here": f"{_short(sum(found))} {size.unit}", "paper": size.paper})
    return rows


def notes(scale: str, metrics: Metrics, *, missing: list[str], left_out: int) -> list[str]:
    """What a reader must know before believing a figure."""
    lines = [
        "Facts are those of a closed world that a seeded generator invented: people, places, things. No model can know "
        "them from elsewhere, and a right answer says nothing about the world outside.",
        "Withheld facts are stated in texts only: in no recording, transcript, dialogue or text-to-token pair. Speech "
        "meets them in the spans that were synthesised from those texts, and nowhere else: what is right about them in "
        "speech crossed over from text.",
        "Chance is not one in N. It is the best of three guesses made without the story or the question: what the same "
        "model prefers when it hears the ending alone or is asked about something else, the commonest answer of the "
        "relation among the questions asked here, and a draw of the lot.",
        "Intervals are 95% bootstrap intervals over facts (for word errors over utterances): what other facts might "
        "have given with the same models. They do not cover another training seed.",
        "Recorded and synthesised speech are never mixed in one figure. The recorded prompts are one speaker's, whose "
        "other prompts were in training.",
        "Word errors of decoded speech are those of a small independent recogniser, with its errors on the original "
        "sound beside them. The vocoder at this scale is Griffin-Lim, and sounds like it.",
    ]
    share = metrics.get("collect", {}).get("mandarin_speech_share", 0.0)
    lines.append(
        f"Mandarin is {100 * share:.0f}% of the speech, all of it synthesised, since no recorded Mandarin could be "
        "installed: read its figures as those of one synthesiser."
        if share
        else "There is no Mandarin speech in this run; Mandarin is in its texts alone."
    )
    if scale in ("smoke", "tiny"):
        lines.append(
            f"Scale {scale} runs on a laptop. Its figures show whether the method works at all; none of them may be "
            "compared with the paper's, which were measured on public benchmarks with models a thousand times larger."
        )
    if scale == "smoke":
        lines.append("Scale smoke only proves that every stage runs; nothing has learnt anything after a few steps.")
    if metrics.get("speech_tokenizer", {}).get("random_start"):
        lines.append(
            "The speech tokenizer started from random weights, not from a Whisper: what follows it cannot be better "
            "than its tokens."
        )
    if missing:
        lines.append(f"Not run yet, and therefore not shown: {', '.join(missing)}.")
    if left_out:
        lines.append(f"{left_out} samples were left out to keep the page small.")
    return lines


def _short(value: float) -> str:
    """12,345 or 1.2 million."""
    for size, name in ((1e12, "trillion"), (1e9, "billion"), (1e6, "million")):
        if value >= size:
            return f"{value / size:.3g} {name}"
    return f"{value:,.0f}" if value >= 100 or float(value).is_integer() else f"{value:.3g}"

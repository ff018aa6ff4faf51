"""The main figures of a run, from data/*/metrics.json: for the report's page, the README and the terminal.

python -m components.report.table            # Markdown, on standard output
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.shared.manifest import atomic, read_json

BEGIN, END = "<!-- results: python -m components.report.table -->", "<!-- end of results -->"
"""Between these two lines of a Markdown file stands the table."""


@dataclass(frozen=True, kw_only=True)
class Line:
    """One line of the table: where its figure stands and how to read it."""

    section: str
    label: str
    model: str
    """The item of evaluate that measured it."""
    metric: str
    beside: str
    """What the baseline is, in a few words; an empty string when there is none."""
    share: bool = True
    """Shown in percent; otherwise as a plain ratio."""
    higher_is_better: bool = False


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A line with what was measured."""

    line: Line
    value: float
    low: float | None
    high: float | None
    baseline: float | None
    beyond: bool | None
    """Whether the paired difference to the baseline excludes zero in the good direction; None without a baseline."""
    num_items: int | None

    def show(self, value: float | None) -> str:
        """A value in the line's unit: 12.3% or 1.04."""
        if value is None:
            return ""
        return f"{100 * value:.1f}%" if self.line.share else f"{value:.2f}"

    @property
    def interval(self) -> str:
        """The 95% interval in the line's unit, or an empty string."""
        return "" if self.low is None else f"{self.show(self.low)} – {self.show(self.high)}"


MODES = (("speech → speech", "s_to_s"), ("speech → text", "s_to_t"), ("text → text", "t_to_t"))
TOKENIZER = "Speech tokenizer: its words, from tokens alone"
TEXT_TO_TOKEN = "Text to token: what the tokens say"
STORIES = "Speech-text LM: the right ending of a story"
QUESTIONS = "Speech-text LM: the answer to a question"
CHAT = "Chat model: the right answer in its reply to a spoken question"
DECODER = "Speech decoder: heard by another recogniser (new: to the tokenizer)"
SOUND = "Speech decoder: how it sounds, and in whose voice"
SOUND_JUDGES = (
    ("DistillMOS (stand-in for UTMOS/MOSNet), 1 to 5", "mos"),
    ("DNSMOS, 1 to 5", "dnsmos"),
    ("ViSQOL against the original, 1 to 5", "visqol"),
    ("Speaker similarity (CAM++), up to 1", "speaker"),
)
SOUNDS = (
    ("synthesised English", "synthesized_seen"),
    ("synthesised English, new voice", "synthesized_unseen"),
    ("recorded English", "recorded_seen"),
    ("recorded English, new speakers", "recorded_unseen"),
)
"""New: to the tokenizer, whose tokens the decoder says in its own voice."""
SOUND_WAYS = (("", "resynthesis"), (", vocoder on the true mel", "vocoder"))
WHISPER, REAL, ENDING, BLIND, ORIGINAL, ANOTHER = (
    "Whisper, not quantised",
    "real tokens",
    "best guess without the story",
    "best guess without the question",
    "original audio",
    "another utterance of the speaker",
)


def _errors(model: str, section: str, beside: str, *lines: tuple[str, str]) -> list[Line]:
    return [Line(section=section, label=label, model=model, metric=name, beside=beside) for label, name in lines]


def _accuracies(
    section: str, task: str, beside: str, *, model: str = "pretrain", modes: tuple[tuple[str, str], ...] = MODES
) -> list[Line]:
    groups = (("facts that speech states", "spoken"), ("facts that only text states", "withheld"))
    return [
        Line(
            section=section,
            label=f"{way}, {facts}",
            model=model,
            metric=f"{task}_{mode}_{group}",
            beside=beside,
            higher_is_better=True,
        )
        for way, mode in modes
        for facts, group in groups
    ]


LINES = (
    *_errors(
        "speech_tokenizer",
        TOKENIZER,
        WHISPER,
        ("WER, synthesised English, voices of training", "transcription_wer_synthesized_seen"),
        ("WER, synthesised English, a voice kept for test", "transcription_wer_synthesized_unseen"),
        ("WER, recorded English, speaker of training", "transcription_wer_recorded_seen"),
        ("WER, recorded English, speakers not in training", "transcription_wer_recorded_unseen"),
        ("CER, synthesised Mandarin, voices of training", "transcription_cer_synthesized_seen"),
        ("CER, synthesised Mandarin, a voice kept for test", "transcription_cer_synthesized_unseen"),
        ("CER, recorded Mandarin", "transcription_cer_recorded_seen"),
    ),
    Line(
        section=TOKENIZER,
        label="Codebook in use",
        model="speech_tokenizer",
        metric="codebook_use",
        beside="",
        higher_is_better=True,
    ),
    *_errors(
        "text_to_token",
        TEXT_TO_TOKEN,
        REAL,
        ("WER, unseen English sentences", "generation_wer_sentences"),
        ("CER, unseen Mandarin sentences", "generation_cer_sentences"),
        ("WER, English sentences, no speaker named", "generation_wer_sentences_unnamed"),
        ("CER, Mandarin sentences, no speaker named", "generation_cer_sentences_unnamed"),
        ("WER, English sentences, other speakers named", "generation_wer_sentences_others"),
        ("CER, Mandarin sentences, other speakers named", "generation_cer_sentences_others"),
    ),
    *_errors(
        "text_to_token",
        TEXT_TO_TOKEN,
        "",
        ("WER, spans of unseen English texts", "generation_wer_spans"),
        ("CER, spans of unseen Mandarin texts", "generation_cer_spans"),
    ),
    Line(
        section=TEXT_TO_TOKEN,
        label="Tokens made, against tokens of the recording",
        model="text_to_token",
        metric="generation_length_sentences",
        beside="",
        share=False,
    ),
    Line(
        section=TEXT_TO_TOKEN,
        label="The speaker asked for, told from the tokens made",
        model="text_to_token",
        metric="speaker_asked",
        beside="any speaker",
        higher_is_better=True,
    ),
    Line(
        section=TEXT_TO_TOKEN,
        label="The speaker, told from the tokens of recordings",
        model="text_to_token",
        metric="speaker_real",
        beside="any speaker",
        higher_is_better=True,
    ),
    *_accuracies(STORIES, "story", ENDING),
    *_accuracies(QUESTIONS, "question", BLIND),
    *_accuracies(CHAT, "reply", BLIND, model="sft", modes=MODES[:2]),
    *_errors("sft", CHAT, "", ("WER of a reply's speech against its text", "reply_wer_speech")),
    *_errors(
        "speech_decoder",
        DECODER,
        ORIGINAL,
        *((f"WER, {kind}", f"resynthesis_wer_{group}") for kind, group in SOUNDS),
        *((f"WER of the vocoder on the true mel, {kind}", f"vocoder_wer_{group}") for kind, group in SOUNDS),
    ),
    *(
        Line(
            section=SOUND,
            label=f"{judge}, {kind}{way}",
            model="speech_decoder",
            metric=f"{task}_{mode}_{group}",
            beside=ANOTHER if mode == "speaker" else ORIGINAL,
            share=False,
            higher_is_better=True,
        )
        for judge, mode in SOUND_JUDGES
        for kind, group in SOUNDS
        if group != "synthesized_unseen"
        for way, task in SOUND_WAYS
    ),
)


def read_figures(data: Path) -> list[Figure]:
    """The figures that a run has measured, in the order of LINES; models that were not evaluated are left out."""
    found = {path.parent.name: read_json(path) for path in sorted(data.glob("evaluate/*/metrics.json"))}
    return [
        figure(line, found[line.model]) for line in LINES if line.model in found and line.metric in found[line.model]
    ]


def figure(line: Line, metrics: dict[str, Any]) -> Figure:
    """One line filled from the metrics of its model."""

    def get(suffix: str) -> float | None:
        return metrics.get(f"{line.metric}_{suffix}")

    baseline = metrics.get(f"{line.metric}_chance", get("reference")) if line.beside else None
    low, high, num_items = get("difference_low"), get("difference_high"), get("items")
    beyond = None
    if baseline is not None and low is not None and high is not None:
        beyond = low > 0 if line.higher_is_better else high < 0
    return Figure(
        line=line,
        value=metrics[line.metric],
        low=get("low"),
        high=get("high"),
        baseline=baseline,
        beyond=beyond,
        num_items=None if num_items is None else int(num_items),
    )


def to_markdown(figures: list[Figure]) -> str:
    """The figures as a Markdown table, a heading row for each section."""
    rows = ["| what | value | 95% interval | beside it | items |", "|---|---|---|---|---|"]
    section = ""
    for item in figures:
        if item.line.section != section:
            section = item.line.section
            rows.append(f"| **{section}** | | | | |")
        beside = f"{item.show(item.baseline)} ({item.line.beside})" if item.baseline is not None else ""
        items = "" if item.num_items is None else str(item.num_items)
        rows.append(f"| {item.line.label} | {item.show(item.value)} | {item.interval} | {beside} | {items} |")
    return "\n".join(rows)


def put_into(document: str, table: str) -> str:
    """A document with the table between its two marks. Raises ValueError when it has not exactly one such place."""
    counts = document.count(BEGIN), document.count(END)
    if counts != (1, 1) or document.index(BEGIN) > document.index(END):
        raise ValueError(f"got {counts[0]} and {counts[1]} marks, wanted one {BEGIN!r} and after it one {END!r}")
    before, rest = document.split(BEGIN)
    _, after = rest.split(END)
    return f"{before}{BEGIN}\n{table}\n{END}{after}"


def main() -> None:
    """Print the table of the run in data/, or put it into a Markdown file."""
    parser = argparse.ArgumentParser(prog="python -m components.report.table", description="The main figures of a run.")
    parser.add_argument("--data", type=Path, default=Path("data"), help="the folder that stages publish to")
    parser.add_argument("--into", type=Path, help=f"a Markdown file with the lines {BEGIN} and {END}")
    options = parser.parse_args()
    figures = read_figures(options.data)
    if not figures:
        raise SystemExit(f"{options.data}: no figures; make them with `dvc repro report`")
    if options.into is None:
        print(to_markdown(figures))
        return
    try:
        document = put_into(options.into.read_text(encoding="utf-8"), to_markdown(figures))
    except (ValueError, OSError) as error:
        raise SystemExit(f"{options.into}: {error}") from error
    with atomic(options.into) as temporary:
        temporary.write_text(document, encoding="utf-8")


if __name__ == "__main__":
    main()

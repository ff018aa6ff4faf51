"""The text-to-token model: what its speech tokens say, and how many it needs, on texts that training never had."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from components.evaluate.config import EvaluateConfig
from components.evaluate.evaluation import Evaluation, by_language, error_score, kept
from components.evaluate.samples import SampleBook
from components.evaluate.selection import choose_each
from components.evaluate.speech import Speech, read_split, train_texts, unheard
from components.shared.contracts import ItemScore, SpeechTokens, Text
from components.shared.engine import make_engine
from components.shared.manifest import hash_of, read_table
from components.shared.places import Inputs
from components.shared.speakable import speakable
from components.shared.tracking import Tracker
from components.shared.words import words

SENTENCES, SPANS = "sentences", "spans"


@dataclass(frozen=True, kw_only=True)
class Span:
    """A piece of a text to be said."""

    id: str
    text: str
    language: str


def evaluate(config: EvaluateConfig, inputs: Inputs, book: SampleBook, tracker: Tracker) -> Evaluation:
    """WER and CER of tokens made from text, transcribed by the speech tokenizer's own decoder.

    Sentences have real tokens beside them (the baseline, and the length they are compared with); spans, cut from texts
    of the split as synthesis cuts them, have none.
    """
    from components.speech_tokenizer.model import load as load_tokenizer
    from components.text_to_token.model import load

    folder = inputs.folder("text_to_token", "model")
    model = load(folder)
    engine = make_engine(replace(config.engine, model=str(folder)))
    tokenizer = load_tokenizer(
        inputs.folder("speech_tokenizer", "model"), "cuda" if torch.cuda.is_available() else "cpu"
    )

    def say(items: Sequence[Span]) -> list[list[int]]:
        """Codes of each text, in the voice of its language that the model learnt best."""
        requests = [
            model.request(
                item.id,
                item.text,
                item.language,
                speaker=model.main_speakers[item.language],
                seed=int(hash_of([config.seed, item.id])[:8], 16),
                temperature=config.temperature,
            )
            for item in items
        ]
        made = engine.generate_all(requests, lambda done, total: tracker.progress(done, total, "generation: texts"))
        return [model.codes(completion.token_ids) for completion in made]

    def transcribe(codes: Sequence[Sequence[int]], languages: list[str]) -> list[str]:
        return tokenizer.transcribe([torch.tensor(row, dtype=torch.int64) for row in codes], languages)

    speech = unheard(read_split(inputs, config.split.value), train_texts(inputs))
    rows = choose_each(
        [row for row in speech.rows.values() if sayable(row.text or "", row.language, model.main_speakers)],
        config.num_sentences,
        seed=config.seed,
        key=lambda row: row.id,
        group=lambda row: row.language,
    )
    spans, unsayable = cut_spans(inputs, config, model.main_speakers)
    tracker.say(f"generation: {len(rows)} sentences and {len(spans)} spans")
    made = say([Span(id=row.id, text=row.text or "", language=row.language) for row in rows])
    languages = [row.language for row in rows]
    said, real = transcribe(made, languages), transcribe([row.tokens for row in rows], languages)
    said_spans = transcribe(say(spans), [span.language for span in spans])
    scores = sentence_scores(rows, made, said, real) + span_scores(spans, said_spans)
    show(book, speech, rows, said, real, config.num_samples)
    return Evaluation(scores=scores, metrics={"dropped_nothing_to_say": float(unsayable)})


def sayable(text: str, language: str, speakers: dict[str, str]) -> bool:
    """Whether a text has a word in a language that the model speaks."""
    return language in speakers and bool(speakable(text, language))


def cut_spans(inputs: Inputs, config: EvaluateConfig, speakers: dict[str, str]) -> tuple[list[Span], int]:
    """One span of Poisson length from each chosen text of the split, and how many had nothing to say in them."""
    texts = [row for row in read_table(inputs.folder("collect", "texts"), Text) if row.split == config.split.value]
    chosen = choose_each(
        [text for text in texts if text.language in speakers],
        config.num_sentences,
        seed=config.seed,
        key=lambda row: row.id,
        group=lambda row: row.language,
    )
    spans = [Span(id=text.id, text=cut_span(text.text, config), language=text.language) for text in chosen]
    good = [span for span in spans if sayable(span.text, span.language, speakers)]
    return good, len(spans) - len(good)


def cut_span(text: str, config: EvaluateConfig) -> str:
    """Some words in a row from anywhere in the text; their number is Poisson, at least one. '' when it has no word."""
    places = words(text)
    if not places:
        return ""
    rng = np.random.default_rng([config.seed, int(hash_of(text)[:8], 16)])
    length = max(1, min(len(places), int(rng.poisson(config.mean_span))))
    first = int(rng.integers(len(places) - length + 1))
    return text[places[first][0] : places[first + length - 1][1]].strip()


def sentence_scores(
    rows: Sequence[SpeechTokens], made: Sequence[Sequence[int]], said: Sequence[str], real: Sequence[str]
) -> list[ItemScore]:
    """Errors beside those of the real tokens, and number of tokens beside theirs."""
    errors = [
        error_score(row, task="generation", groups=[SENTENCES], reference=row.text or "", answer=answer, beside=beside)
        for row, answer, beside in zip(rows, said, real, strict=True)
    ]
    lengths = [
        ItemScore(
            id=row.id,
            task="generation",
            mode="length",
            groups=[SENTENCES],
            language=row.language,
            cluster=row.id,
            score=float(len(codes)),
            baseline=float(len(row.tokens)),
            weight=float(len(row.tokens)),
            reference=row.text or "",
            answer=answer,
        )
        for row, codes, answer in zip(rows, made, said, strict=True)
    ]
    return kept(errors) + lengths


def span_scores(spans: Sequence[Span], said: Sequence[str]) -> list[ItemScore]:
    """Errors of spans against their spoken form; there are no real tokens beside them."""
    scores = []
    for span, answer in zip(spans, said, strict=True):
        spoken = speakable(span.text, span.language)
        scores.append(
            error_score(span, task="generation", groups=[SPANS], reference=spoken, answer=answer, beside=None)
        )
    return kept(scores)


def show(
    book: SampleBook, speech: Speech, rows: Sequence[SpeechTokens], said: Sequence[str], real: Sequence[str], num: int
) -> None:
    """Some of every language; how the tokens sound is in the samples of the speech decoder."""
    places = [place for group in by_language(rows).values() for place in group[: max(1, num // 2)]]
    for place in places[:num]:
        row = rows[place]
        texts = {"text": row.text or "", "made tokens say": said[place], "real tokens say": real[place]}
        book.add(
            f"Unseen sentence ({row.language})", row.language, texts, {"recording": speech.wave(row.id)}, key=row.id
        )

"""The speech decoder: is it understood by a recogniser that had no part in training, and how does it sound?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from components.evaluate import documents
from components.evaluate.config import EvaluateConfig
from components.evaluate.evaluation import Evaluation, by_language, error_score, kept
from components.evaluate.samples import SampleBook, Wave
from components.evaluate.selection import choose, choose_each
from components.evaluate.sound_quality import ORIGINAL, Sounds, Verdicts, in_words, judge_sounds, sound_scores
from components.evaluate.speech import Speech, read_split, train_speakers, voice_group
from components.shared.contracts import ItemScore, SpeechTokens
from components.shared.engine import make_engine
from components.shared.places import Inputs
from components.shared.recognizer import Recognizer
from components.shared.speakable import speakable
from components.shared.tracking import Tracker

if TYPE_CHECKING:
    from components.speech_decoder.model import SpeechDecoder

DECODED, VOCODED = "re-synthesised", "vocoder alone"
TASKS = {DECODED: "resynthesis", VOCODED: "vocoder", ORIGINAL: "original"}
"""Way -> its name in the figures."""


@dataclass(frozen=True, kw_only=True)
class Heard:
    """One utterance three ways, each (samples,) float32 at the decoder's rate, and what the judge understood."""

    row: SpeechTokens
    group: str
    """What it is reported with: recorded_seen, synthesized_unseen and so on, by its origin and its speaker."""
    waves: dict[str, np.ndarray]
    texts: dict[str, str]
    verdicts: Verdicts = field(default_factory=dict)
    """What the judges say of how it sounds; empty where none was asked."""


def evaluate(config: EvaluateConfig, inputs: Inputs, book: SampleBook, tracker: Tracker) -> Evaluation:
    """WER of decoded speech by config.judges, grades by config.sound_judges.

    Recorded and synthesised speech stand apart, and tokens of voices that training had and had not; the decoder's own
    voice says them all. resynthesis: tokens -> mel -> wave; vocoder: the recording's own mel -> wave, which no decoder
    can be better than. The baseline of both is the original sound, which has grades of its own (original). Utterances
    in languages without a judge are left out. Interleaved documents are shown beside, with spans to hear.
    """
    from components.speech_decoder.model import load
    from components.speech_tokenizer.model import load as load_tokenizer

    device = "cuda" if torch.cuda.is_available() else "cpu"
    decoder = load(inputs.folder("speech_decoder", "model"), device)
    speech, seen = read_split(inputs, config.split.value), train_speakers(inputs)
    rows = choose_each(
        [row for row in speech.rows.values() if row.language in config.judges],
        config.num_decoded,
        seed=config.seed,
        key=lambda row: row.id,
        group=lambda row: f"{row.language}_{voice_group(row, seen)}",
    )
    waves = []
    for row in tracker.progress(rows, len(rows), "decoding"):
        original, _ = speech.wave(row.id, decoder.sample_rate_hz)
        vocoded = decoder.vocode(torch.from_numpy(original)).numpy()
        waves.append({ORIGINAL: original, DECODED: decoder.decode(row.tokens).numpy(), VOCODED: vocoded})
    groups = [voice_group(row, seen) for row in rows]
    heard = judge(rows, groups, waves, decoder.sample_rate_hz, config)
    sounds = sounds_of(heard, speech, decoder.sample_rate_hz, config)
    verdicts = judge_sounds(sounds, decoder.sample_rate_hz, config.sound_judges, device)
    by_id = {item.row.id: found for item, found in zip(sounds, verdicts, strict=True)}
    heard = [replace(item, verdicts=by_id.get(item.row.id, {})) for item in heard]
    show(book, heard, say(config, inputs, heard, decoder), decoder.sample_rate_hz, config.num_samples)
    ear = load_tokenizer(inputs.folder("speech_tokenizer", "model"), device)
    documents.show(book, inputs.folder("synthesize", "interleaved"), decoder, ear.transcribe, config)
    return Evaluation(scores=[*scores_of(heard), *sound_scores(sounds, verdicts, TASKS)])


def judge(
    rows: Sequence[SpeechTokens],
    groups: Sequence[str],
    waves: Sequence[dict[str, np.ndarray]],
    sample_rate_hz: int,
    config: EvaluateConfig,
) -> list[Heard]:
    """What each language's judge understands of every way of every utterance; groups: of each, see Heard.group."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    texts: list[dict[str, str]] = [{} for _ in rows]
    for language, places in by_language(rows).items():
        recognizer = Recognizer(config.judges[language], device)
        for way in (ORIGINAL, DECODED, VOCODED):
            found = recognizer.transcribe([waves[place][way] for place in places], sample_rate_hz, language)
            for place, text in zip(places, found, strict=True):
                texts[place][way] = text
    return [
        Heard(row=row, group=group, waves=sounds, texts=said)
        for row, group, sounds, said in zip(rows, groups, waves, texts, strict=True)
    ]


def scores_of(heard: Sequence[Heard]) -> list[ItemScore]:
    """Errors of the decoded and of the merely vocoded sound beside those of the original."""
    return kept(
        [
            error_score(
                item.row,
                task=task,
                groups=[item.group],
                reference=item.row.text or "",
                answer=item.texts[way],
                beside=item.texts[ORIGINAL],
            )
            for task, way in ((TASKS[way], way) for way in (DECODED, VOCODED))
            for item in heard
        ]
    )


def sounds_of(heard: Sequence[Heard], speech: Speech, sample_rate_hz: int, config: EvaluateConfig) -> list[Sounds]:
    """The first utterances of each language and group, each with another one of its speaker."""
    if not config.sound_judges:
        return []
    found = []
    taken: Counter[tuple[str, str]] = Counter()
    for items in by_group(heard).values():
        for item in items:
            taken[item.row.language, item.group] += 1
            if taken[item.row.language, item.group] > config.num_sound_judged:
                continue
            same = [row for row in speech.rows.values() if row.speaker == item.row.speaker and row.id != item.row.id]
            others = choose(same, 1, seed=config.seed, key=lambda row: row.id)
            other = speech.wave(others[0].id, sample_rate_hz)[0] if others else None
            found.append(Sounds(row=item.row, group=item.group, waves=item.waves, other=other))
    return found


def say(config: EvaluateConfig, inputs: Inputs, heard: Sequence[Heard], decoder: SpeechDecoder) -> dict[str, Wave]:
    """The samples' texts said by the text-to-token model and decoded: utterance id -> wave."""
    from components.text_to_token.model import load

    folder = inputs.folder("text_to_token", "model")
    model = load(folder)
    rows = [item.row for item in shown(heard, config.num_samples)]
    rows = [row for row in rows if row.language in model.main_speakers and speakable(row.text or "", row.language)]
    engine = make_engine(replace(config.engine, model=str(folder)))
    requests = [
        model.request(
            row.id,
            row.text or "",
            row.language,
            speaker=model.main_speakers[row.language],
            seed=config.seed,
            temperature=config.temperature,
        )
        for row in rows
    ]
    made = {completion.key: model.codes(completion.token_ids) for completion in engine.generate_all(requests)}
    return {key: (decoder.decode(codes).numpy(), decoder.sample_rate_hz) for key, codes in made.items() if codes}


def shown(heard: Sequence[Heard], num: int) -> list[Heard]:
    """The utterances to hear: as many of each group."""
    groups = by_group(heard)
    each = -(-num // max(1, len(groups)))
    return [item for items in groups.values() for item in items[:each]][:num]


def by_group(heard: Sequence[Heard]) -> dict[str, list[Heard]]:
    """recorded_seen, synthesized_seen and so on -> their utterances."""
    groups: dict[str, list[Heard]] = {}
    for item in heard:
        groups.setdefault(item.group, []).append(item)
    return {name: groups[name] for name in sorted(groups)}


def show(book: SampleBook, heard: Sequence[Heard], said: dict[str, Wave], sample_rate_hz: int, num: int) -> None:
    """Original, re-synthesised, vocoder alone, and the text-to-token model's own way of saying it."""
    for item in shown(heard, num):
        sounds = {way: (wave, sample_rate_hz) for way, wave in item.waves.items()}
        if item.row.id in said:
            sounds["from text alone"] = said[item.row.id]
        texts = {"said": item.row.text or "", "understood": item.texts[DECODED], **in_words(item.verdicts)}
        book.add(f"{item.row.origin}, {item.row.speaker}", item.row.language, texts, sounds, key=item.row.id)

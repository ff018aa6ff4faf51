"""The text-to-token model: what its speech tokens say, and how many it needs, on texts that training never had."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from components.evaluate import benchmarks, naming, recitation
from components.evaluate.config import EvaluateConfig
from components.evaluate.evaluation import Evaluation, by_language
from components.evaluate.samples import SampleBook
from components.evaluate.saying import Real, Said, Saying, Talker, scores_alone, scores_beside_real
from components.evaluate.selection import choose_each
from components.evaluate.speech import Speech, read_split, train_texts, unheard
from components.shared.contracts import ItemScore, SpeechTokens, Text
from components.shared.engine import make_engine
from components.shared.manifest import hash_of, read_table
from components.shared.places import Inputs
from components.shared.tracking import Tracker
from components.shared.words import words

SENTENCES, SPANS = "sentences", "spans"
UNNAMED, OTHERS = "unnamed", "others"
"""Asked for without a speaker, and in the name of another than the main speaker."""


def evaluate(config: EvaluateConfig, inputs: Inputs, book: SampleBook, tracker: Tracker) -> Evaluation:
    """WER and CER of tokens made from text, transcribed by the speech tokenizer's own decoder.

    Sentences have real tokens beside them (the baseline, and the length they are compared with); spans, cut from texts
    of the split as synthesis cuts them, have none. Both are said in the main speaker's name and without a name; some
    sentences in the names of other speakers, who are then told from the tokens (naming.py). Public test sets
    (config.benchmarks, VCTK) come on top, a group a part; a folder that is not right ends the run at once.
    """
    from components.speech_tokenizer.model import load as load_tokenizer
    from components.text_to_token.model import load

    heard = train_texts(inputs)
    public = benchmarks.read(config, inputs.data.parent, tracker, benchmarks.SAID, recitation.Unheard(heard))
    folder = inputs.folder("text_to_token", "model")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    talker = Talker(
        model=load(folder),
        engine=make_engine(replace(config.engine, model=str(folder))),
        ear=load_tokenizer(inputs.folder("speech_tokenizer", "model"), device),
        config=config,
        tracker=tracker,
    )
    speech = unheard(read_split(inputs, config.split.value), heard)
    rows = choose_each(
        [row for row in speech.rows.values() if row.tokens and talker.sayable(row.text or "", row.language)],
        config.num_sentences,
        seed=config.seed,
        key=lambda row: row.id,
        group=lambda row: row.language,
    )
    spans, unsayable = cut_spans(inputs, talker)
    speakers = naming.choose_speakers(inputs, talker.model.main_speakers, talker.model.speakers, config)
    tracker.say(
        f"generation: {len(rows)} sentences and {len(spans)} spans; speakers {speakers or 'only the main ones'}"
    )
    real = talker.hear([row.tokens for row in rows], [row.language for row in rows])
    said = say_sentences(rows, speakers, talker)
    scores = sentence_scores(said, {row.id: beside for row, beside in zip(rows, real, strict=True)})
    for name, suffix in ((True, ""), (False, f"_{UNNAMED}")):
        asked = spans if name else [replace(span, speaker=None) for span in spans]
        scores += scores_alone(talker.say(asked, "generation: spans"), f"{SPANS}{suffix}")
    told, voices = tell_speakers(said[OTHERS], list(speech.rows.values()), speakers, inputs, config)
    recited = recitation.evaluate(public, talker)
    show(book, speech, rows, said, real, config.num_samples)
    return Evaluation(
        scores=scores + told + recited.scores,
        metrics={"dropped_nothing_to_say": float(unsayable)} | recited.metrics,
        files={"speakers.json": voices},
    )


def cut_spans(inputs: Inputs, talker: Talker) -> tuple[list[Saying], int]:
    """One span of Poisson length from each chosen text of the split, and how many had nothing to say in them."""
    config, speakers = talker.config, talker.model.main_speakers
    texts = [row for row in read_table(inputs.folder("collect", "texts"), Text) if row.split == config.split.value]
    chosen = choose_each(
        [text for text in texts if text.language in speakers],
        config.num_sentences,
        seed=config.seed,
        key=lambda row: row.id,
        group=lambda row: row.language,
    )
    spans = [
        Saying(
            id=text.id,
            text=cut_span(text.text, config),
            language=text.language,
            speaker=speakers[text.language],
            in_pieces=config.cut_at_sentences,
        )
        for text in chosen
    ]
    good = [span for span in spans if talker.sayable(span.text, span.language)]
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


def say_sentences(
    rows: Sequence[SpeechTokens], speakers: dict[str, list[str]], talker: Talker
) -> dict[str, list[Said]]:
    """Sentences in the main speaker's name (SENTENCES) and in nobody's (UNNAMED); the first of each language in every
    speaker's name, the main one's too (OTHERS).
    """
    main = [_saying(row, talker.model.main_speakers[row.language]) for row in rows]
    few = choose_each(
        [row for row in rows if row.language in speakers],
        talker.config.num_by_speaker,
        seed=talker.config.seed,
        key=lambda row: row.id,
        group=lambda row: row.language,
    )
    named = [_saying(row, speaker) for row in few for speaker in speakers[row.language][1:]]
    said = talker.say([*main, *(replace(one, speaker=None) for one in main), *named], "generation: sentences")
    first = said[: len(main)]
    chosen = {row.id for row in few}
    return {
        SENTENCES: first,
        UNNAMED: said[len(main) : 2 * len(main)],
        OTHERS: [one for one in first if one.saying.id in chosen] + said[2 * len(main) :],
    }


def _saying(row: SpeechTokens, speaker: str) -> Saying:
    return Saying(id=row.id, text=row.text or "", language=row.language, speaker=speaker)


def sentence_scores(said: dict[str, list[Said]], real: dict[str, Real]) -> list[ItemScore]:
    """Errors and lengths of all ways of asking; real: sentence id -> its recording's tokens.

    Of the other speakers' sentences only the errors: their recordings are in another voice, which may be slower.
    """
    scores = []
    for name, group in ((SENTENCES, SENTENCES), (UNNAMED, f"{SENTENCES}_{UNNAMED}")):
        scores += scores_beside_real(said[name], [real[one.saying.id] for one in said[name]], group)
    main = {(one.saying.id, one.saying.speaker) for one in said[SENTENCES]}
    others = [one for one in said[OTHERS] if (one.saying.id, one.saying.speaker) not in main]
    beside = scores_beside_real(others, [real[one.saying.id] for one in others], f"{SENTENCES}_{OTHERS}")
    return scores + [replace(row, id=f"{row.id}/{n}") for n, row in enumerate(beside) if row.mode != "length"]


def tell_speakers(
    said: Sequence[Said],
    rows: Sequence[SpeechTokens],
    speakers: dict[str, list[str]],
    inputs: Inputs,
    config: EvaluateConfig,
) -> tuple[list[ItemScore], dict[str, dict[str, float]]]:
    """Whether the speakers asked for are told from what was said, and those of real utterances; and by speaker."""
    if not speakers:
        return [], {}
    profiles = naming.learn_profiles(inputs, speakers)
    scores = naming.asked_scores(said, profiles)
    scores += naming.real_scores(naming.choose_real(rows, profiles, config), profiles)
    return scores, naming.by_speaker(scores)


def show(
    book: SampleBook,
    speech: Speech,
    rows: Sequence[SpeechTokens],
    said: dict[str, list[Said]],
    real: Sequence[Real],
    num: int,
) -> None:
    """Some of every language; how the tokens sound is in the samples of the speech decoder."""
    places = [place for group in by_language(rows).values() for place in group[: max(1, num // 2)]]
    for place in places[:num]:
        row = rows[place]
        texts = {
            "text": row.text or "",
            "made tokens say": said[SENTENCES][place].heard,
            "no speaker named": said[UNNAMED][place].heard,
            "real tokens say": real[place].heard,
        }
        book.add(
            f"Unseen sentence ({row.language})", row.language, texts, {"recording": speech.wave(row.id)}, key=row.id
        )

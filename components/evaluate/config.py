"""Settings of the evaluate stage."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from components.shared.engine import EngineConfig


class Split(Enum):
    """Which items are looked at."""

    validation = "validation"
    """To develop and to choose settings."""
    test = "test"
    """To report; nothing is ever chosen by it."""


class Ranking(Enum):
    """What makes candidates of different lengths comparable."""

    total = "total"
    """Nats of the whole candidate: the likelier string, which favours short ones."""
    mean = "mean"
    """Nats a token, the usual choice of spoken StoryCloze."""
    gain = "gain"
    """Nats above those without the prompt: what the prompt adds (Brown et al. 2020, section 2.4)."""


class SoundJudge(Enum):
    """What judges how decoded speech sounds, each from a pinned piece or from formulas alone."""

    mos = "mos"
    """DistillMOS, 1 to 5: how natural; the stand-in for UTMOS and MOSNet (shared/distillmos.py)."""
    dnsmos = "dnsmos"
    """DNSMOS P.835 over all, 1 to 5: how free of noise and distortion (shared/dnsmos.py)."""
    visqol = "visqol"
    """ViSQOL, 1 to 5: how near to the original, which itself is not judged (shared/visqol.py)."""
    speaker = "speaker"
    """Cosine of CAM++ vectors, -1 to 1: how near to the voice of the original (shared/speaker_embedding.py)."""


class Recipe(Enum):
    """Which of lhotse's recipes reads a public test set."""

    librispeech = "librispeech"
    """<path>/<part>/<speaker>/<chapter>/*.flac and *.trans.txt; English; parts such as test-clean and test-other."""
    aishell = "aishell"
    """<path>/data_aishell/{wav/<part>/<speaker>/*.wav,transcript/*.txt}; Mandarin; parts test and dev."""
    vctk = "vctk"
    """<path>/{wav48_silence_trimmed/<speaker>/*_<part>.flac,txt/<speaker>/*.txt,speaker-info.txt}, version 0.92;
    English; parts mic1 and mic2, its microphones. Said by the text-to-token model."""


@dataclass(kw_only=True)
class BenchmarkConfig:
    """One public test set of recordings."""

    recipe: Recipe
    """How its folder is read."""
    path: str
    """Folder where its archives were unpacked, from the project's root or absolute (openslr.org: 12 and
    33; datashare.ed.ac.uk: 10283/3443)."""
    parts: list[str]
    """Official parts that are reported, each by itself: test-clean, test-other; test; mic2."""


@dataclass(kw_only=True)
class EvaluateConfig:
    """Section evaluate of params.yaml and conf/scale."""

    seed: int
    """Root of the stage's randomness: which items, which bootstrap draws."""
    split: Split
    """test to report, validation to develop."""
    level: float
    """Coverage of the intervals, 0.95 for 95%."""
    start: str
    """The un-quantised Whisper beside the speech tokenizer: hub id, folder or piece:<name>; the one it started from."""
    judges: dict[str, str]
    """Language -> recogniser of decoded speech, not the model under test; a language without one is not judged."""
    sound_judges: list[SoundJudge]
    """What decoded speech is judged by beside the recogniser; a judge that is left out has no figures."""
    benchmarks: dict[str, BenchmarkConfig]
    """Name in the figures, such as librispeech -> public test set that the speech tokenizer, or with VCTK the
    text-to-token model, is measured on too."""
    story_ranking: Ranking
    """How endings of different lengths are compared."""
    question_ranking: Ranking
    """How answers of different lengths are compared."""
    mean_span: float
    """Mean span of unseen texts that the text-to-token model says, in words (paper, section 2.3)."""
    cut_at_sentences: bool
    """Whether the sentences of a span are said one by one, as in synthesize."""
    temperature: float
    """Of the text-to-token model, as in synthesize; 0 takes the likeliest token."""
    engine: EngineConfig
    """What scores and generates; its model is filled in by the stage."""
    num_utterances: int
    """Most utterances of each kind (language, corpus, seen or unseen speaker; part of a benchmark) that are
    transcribed; 0: all."""
    num_sentences: int
    """Unseen sentences, and as many spans of unseen texts, that the text-to-token model says in each language."""
    num_speakers: int
    """Most speakers of each language, beside its main speaker, that the text-to-token model is asked for by name."""
    num_by_speaker: int
    """Sentences said in the name of each of them, and most real utterances of each that are told apart."""
    num_stories: int
    """Most stories scored."""
    num_questions: int
    """Most questions scored."""
    num_replies: int
    """Most spoken questions that the chat model answers."""
    max_reply_tokens: int
    """Longest reply, text and audio tokens together."""
    num_decoded: int
    """Utterances of each kind (recorded, synthesised) that are decoded and heard by the judge."""
    num_sound_judged: int
    """Decoded utterances of each kind that sound_judges judge, three ways each; 0: none. One of 4 s takes 1.6 s
    on a CPU core."""
    num_samples: int
    """Samples kept of each model to read and to hear."""

"""Settings of a small evaluation, a question and utterances for it, and the run of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import soundfile
from letters import engine_config

from components.evaluate.config import EvaluateConfig, Ranking, Split
from components.evaluate.stage import run
from components.shared.contracts import Question, SpeechTokens, Utterance
from components.shared.manifest import write_table
from components.shared.places import Inputs, Outputs
from components.shared.tracking import TerminalTracker

LEVEL = 0.95
NUM_CODES = 32


def question(number: int, answer: str, relation: str, withheld: bool) -> Question:
    candidates = ["Oslo", "Bern", "Rome", "Bonn"]
    return Question(
        id=f"q{number}",
        language="en",
        question=f"Where does person {number} live?",
        answer=answer,
        candidates=candidates,
        relation=relation,
        fact=f"f{number}",
        withheld=withheld,
        question_utterance=f"u-q{number}",
        candidate_utterances=[f"u-{name}" for name in candidates],
        split="test",
    )


def config(**changes) -> EvaluateConfig:
    values = {
        "seed": 3,
        "split": Split.test,
        "level": LEVEL,
        "start": "",
        "judges": {},
        "sound_judges": [],
        "benchmarks": {},
        "story_ranking": Ranking.mean,
        "question_ranking": Ranking.mean,
        "mean_span": 10.0,
        "cut_at_sentences": True,
        "temperature": 0.0,
        "engine": engine_config(),
        "num_utterances": 4,
        "num_sentences": 4,
        "num_speakers": 2,
        "num_by_speaker": 3,
        "num_stories": 50,
        "num_questions": 50,
        "num_replies": 4,
        "max_reply_tokens": 64,
        "num_decoded": 2,
        "num_sound_judged": 2,
        "num_samples": 2,
    }
    return EvaluateConfig(**(values | changes))


def write_speech(data: Path, said: dict[str, str]) -> None:
    """Utterances and tokens of (id -> text): noise as sound, tokens by a hash of the text."""
    rng = np.random.default_rng(0)
    folder = data / "collect" / "utterances"
    (folder / "audio").mkdir(parents=True)
    utterances, tokens = [], []
    for number, (name, text) in enumerate(sorted(said.items())):
        wave = (0.1 * rng.standard_normal(4000)).astype(np.float32)
        soundfile.write(folder / "audio" / f"{name}.flac", wave, 16_000)
        shared = {
            "id": name,
            "duration_s": 0.25,
            "text": text,
            "text_source": "human",
            "language": "en",
            "speaker": f"s{number % 2}",
            "corpus": "evaluation",
            "license": "CC0-1.0",
            "split": "test",
            "origin": "synthesized",
        }
        sound = {"audio": f"audio/{name}.flac", "sample_rate_hz": 16_000, "bandwidth_hz": 8000.0, "rms_dbfs": -20.0}
        utterances.append(Utterance(**shared, **sound))
        tokens.append(SpeechTokens(**shared, tokens=[sum(map(ord, text)) % NUM_CODES, number % NUM_CODES, 3]))
    write_table(folder, utterances, Utterance)
    write_table(
        data / "tokenize" / "tokens", tokens, SpeechTokens, extra={"num_codes": NUM_CODES, "tokens_per_s": 12.5}
    )


def evaluate(data: Path, where: Path, item: str, settings: EvaluateConfig) -> tuple[dict[str, float], Path]:
    outputs = Outputs(root=where / item, work=where / "work", item=item)
    outputs.root.mkdir(parents=True)
    metrics = run(settings, Inputs(data), outputs, TerminalTracker())
    outputs.publish(metrics)
    return metrics, outputs.root

"""A small honest stand-in for speech tokens: every letter is one code, so that any 'speech' can be read back."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np

from components.shared.contracts import SpeechTokens
from components.shared.engine import EngineConfig, EngineKind
from components.shared.lm_config import LmShapeConfig, OptimizerConfig, OptimizerKind
from components.shared.manifest import seal, write_table
from components.shared.places import Inputs, Outputs
from components.shared.speakable import speakable
from components.shared.tracking import TerminalTracker
from components.shared.training_config import StrategyKind, TrainerConfig
from components.text_to_token.config import GuidanceConfig, TextToTokenConfig

LETTERS = "abcdefghijklmnopqrstuvwxyz ',.?!"
NUM_CODES = len(LETTERS)
WORDS = {
    "name": ["anna", "bert", "carla", "dino"],
    "verb": ["sees", "likes", "paints"],
    "thing": ["a red house", "the old boat", "two dogs", "some bread"],
    "place": ["in rome", "by the sea", "at home"],
}


def say(text: str) -> list[int]:
    """Codes of a text as it is said."""
    return [LETTERS.index(c) for c in speakable(text, "en") if c in LETTERS]


def hear(codes: list[int]) -> str:
    """The text that codes spell."""
    return "".join(LETTERS[int(code)] for code in codes)


def sentences(count: int, seed: int) -> list[str]:
    """Sentences of a closed grammar of 144."""
    rng = np.random.default_rng(seed)
    made = []
    for _ in range(count):
        words = [str(rng.choice(WORDS[kind])) for kind in ("name", "verb", "thing", "place")]
        made.append(" ".join(words).capitalize() + ".")
    return made


def utterance(number: int, text: str | None, **changes: object) -> SpeechTokens:
    """One row of data/tokenize/tokens."""
    row = dict(
        id=f"u{number:04d}",
        tokens=say(text or "nothing"),
        duration_s=len(text or "nothing") / 12.5,
        text=text,
        text_source="none" if text is None else "human",
        language="en",
        speaker=("ann", "bob")[number % 3 == 0],
        corpus="letters",
        license="MIT",
        split="train",
        origin="synthesized",
    )
    return SpeechTokens(**(row | changes))


def phrases(count: int, seed: int) -> list[str]:
    """Stretches of one to seven words out of sentences of the grammar."""
    rng = np.random.default_rng(seed)
    made = []
    for sentence in sentences(count, seed):
        words = sentence.split()
        start = int(rng.integers(len(words)))
        made.append(" ".join(words[start : start + int(rng.integers(1, 8))]))
    return made


def rows() -> list[SpeechTokens]:
    """200 sentences and 200 phrases to learn from, and sentences of the grammar that are not among them."""
    train = [utterance(i, text) for i, text in enumerate([*sentences(200, seed=0), *phrases(200, seed=2)])]
    unseen = sorted(set(sentences(200, seed=1)) - {row.text for row in train})
    return train + [utterance(1000 + i, text, split="validation") for i, text in enumerate(unseen)]


def engine_config() -> EngineConfig:
    """A small embedded engine in float32."""
    return EngineConfig(
        kind=EngineKind.transformers,
        model="",
        dtype="float32",
        max_batch=8,
        max_length=256,
        max_tokens=1024,
        num_threads=1,
        logprobs=False,
        servers=[],
        in_flight=64,
        timeout_s=60.0,
        patience_s=10.0,
    )


def text_to_token_config() -> TextToTokenConfig:
    """A model that learns the letters in a few seconds."""
    return TextToTokenConfig(
        seed=1,
        words_in_speech=True,
        speaker_share=0.5,
        crossed_share=0.3,
        joined_share=0.2,
        noise_share=0.0,
        guidance=GuidanceConfig(weight=1.0, until=0.5, layer=0, iterations=5, num_pairs=1000),
        label_smoothing=0.0,
        vocab_size=300,
        shape=LmShapeConfig(
            hidden_size=64,
            feed_forward_size=128,
            num_layers=2,
            num_heads=4,
            num_key_value_heads=2,
            rope_theta=1e4,
            init_std=0.05,
            tied=True,
            pad_vocabulary_to=64,
        ),
        optimizer=OptimizerConfig(
            kind=OptimizerKind.muon,
            peak_lr=1e-2,
            final_lr=1e-3,
            warmup_steps=5,
            weight_decay=0.0,
            beta1=0.9,
            beta2=0.95,
        ),
        sequence_length=128,
        batch_size=8,
        trainer=TrainerConfig(
            num_steps=120,
            precision="32-true",
            gradient_clip=1.0,
            accumulate_batches=1,
            log_every_steps=20,
            validate_every_steps=120,
            checkpoint_every_steps=60,
            keep_last=1,
            keep_every_steps=0,
            resume_from="",
            strategy=StrategyKind.auto,
        ),
        temperature=0.0,
        top_p=1.0,
        mean_span=4.0,
        num_validation=20,
        engine=engine_config(),
    )


EAR = SimpleNamespace(transcribe=lambda codes, languages=None: [hear(c.tolist()) for c in codes])
"""What stands for the speech tokenizer: it reads the letters back."""


def train(root: Path) -> dict[str, float]:
    """Run the stage text_to_token below root/data, with EAR as the speech tokenizer; returns its metrics."""
    import pytest

    import components.speech_tokenizer.model as door
    from components.text_to_token.stage import run

    extra = {"num_codes": NUM_CODES, "tokens_per_s": 12.5}
    write_table(root / "data/tokenize/tokens", rows(), SpeechTokens, extra=extra)
    ear = root / "data/speech_tokenizer/model"
    ear.mkdir(parents=True)
    seal(ear)
    outputs = Outputs(root=root / "data/text_to_token", work=root / "work/text_to_token")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(door, "load", lambda path: EAR)
        metrics = run(text_to_token_config(), Inputs(root / "data"), outputs, TerminalTracker())
    outputs.publish(metrics)
    return metrics

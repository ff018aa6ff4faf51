"""The story of text_to_token: pairs, a tokenizer, a model, and an ear for what it says."""

from __future__ import annotations

import dataclasses
from collections import Counter
from pathlib import Path

import numpy as np
import torch

from components.shared.contracts import SpeechTokens
from components.shared.engine import make_engine
from components.shared.manifest import read_manifest, read_table, seal
from components.shared.packed_attention import packed
from components.shared.places import Inputs, Outputs
from components.shared.speech_lm import random_model
from components.shared.tokens import Vocabulary
from components.shared.tracking import Tracker
from components.shared.training import fit
from components.text_to_token.alignment import Alignment, align_pairs
from components.text_to_token.config import TextToTokenConfig
from components.text_to_token.crossing import Spoken, spoken
from components.text_to_token.data import Choices, Encoder, PairLoader, validation_loader, within
from components.text_to_token.hearing import ask, hear
from components.text_to_token.model import load, save_record
from components.text_to_token.module import TextToTokenModule
from components.text_to_token.pace import Pace
from components.text_to_token.pairs import Pair, main_speakers, make_tokenizer, select


def run(config: TextToTokenConfig, inputs: Inputs, outputs: Outputs, tracker: Tracker) -> dict[str, float]:
    """Train a causal LM that says texts as speech tokens.

    Reads   data/tokenize/tokens, data/speech_tokenizer/model
    Writes  data/text_to_token/model/
    Metrics loss in nats per speech token and token accuracy on unseen sentences; of the unseen sentences and spans it
            says: wer_sentences and wer_spans (cer in Mandarin) beside those of real tokens, length_ratio to real
            speech, finished and faulty shares; num_pairs, dropped_*
    Source  Zeng et al. 2024, section 2.3

    Raises ValueError when there is no pair to learn from.
    """
    folder = inputs.folder("tokenize", "tokens")
    num_codes = int(read_manifest(folder).extra["num_codes"])
    tokens_per_s = float(read_manifest(folder).extra["tokens_per_s"])
    tracker.log_dataset(folder, "speech_tokens", "train")
    dropped: Counter[str] = Counter()
    pairs = select(read_table(folder, SpeechTokens), dropped)
    train, unseen = pairs["train"], _spread(pairs["validation"], config.num_validation)
    if not train:
        raise ValueError(f"{folder}: no train utterance with human text; wanted pairs to learn from")
    tokenizer = make_tokenizer(train, config.vocab_size, num_codes)
    vocabulary = Vocabulary.of(tokenizer, num_codes)

    pace = Pace.learn((pair.language, pair.said, pair.codes) for pair in train)
    alignment = align_pairs(train, pace, num_codes, config.guidance.num_pairs, config.guidance.iterations)
    encoder = Encoder(tokenizer, vocabulary, words_in_speech=config.words_in_speech)
    examples = _fitting(train, alignment, encoder, config)
    dropped["too_long"] += len(train) - len(examples)
    if sum(dropped.values()):
        tracker.say(f"text_to_token: left out {dict(dropped)} of {len(train) + sum(dropped.values())} pairs")
    model = random_model(config.shape, vocabulary, config.engine.max_length, config.seed)
    module = TextToTokenModule(model, vocabulary, config)
    num_parameters = sum(p.numel() for p in model.parameters())
    tracker.say(f"text_to_token: {len(examples)} pairs, {num_parameters / 1e6:.1f}M parameters")
    loader = PairLoader(
        examples,
        encoder,
        sequence_length=config.sequence_length,
        batch_size=config.batch_size,
        num_batches=config.trainer.num_steps * config.trainer.accumulate_batches,
        choices=Choices(
            speaker_share=config.speaker_share,
            crossed_share=config.crossed_share,
            joined_share=config.joined_share,
            noise_share=config.noise_share,
        ),
        seed=config.seed,
    )
    held_out = _fitting(unseen, alignment, encoder, config)
    batches = validation_loader(held_out, encoder, config.sequence_length, config.batch_size) if held_out else None
    torch.set_num_threads(config.engine.num_threads)
    with packed(model):
        curve = fit(
            module,
            loader,
            batches,
            config.trainer,
            tracker=tracker,
            checkpoints=outputs.checkpoints,
            what="text_to_token",
        )
    metrics = {
        "num_parameters": float(num_parameters),
        "num_pairs": float(len(examples)),
        **curve,
        **{f"dropped_{reason}": float(dropped[reason]) for reason in ("unspeakable", "no_tokens", "too_long")},
    }

    model_folder = outputs.folder("model")
    module.to("cpu")
    model.save_pretrained(model_folder)
    tokenizer.save_pretrained(model_folder)
    speakers = sorted({pair.speaker for pair in train})
    save_record(
        model_folder,
        vocabulary,
        tokens_per_s,
        main_speakers(train),
        words_in_speech=config.words_in_speech,
        speakers=speakers,
        pace=pace.to_json(),
    )
    seal(model_folder, extra={"num_codes": num_codes})
    rows, heard = _listen(config, model_folder, unseen, alignment, inputs, tracker)
    outputs.write_stats(shards=[metrics | heard], rows=rows)
    tracker.log_model(model_folder, "text_to_token")
    return metrics | heard


def _fitting(
    pairs: list[Pair], alignment: Alignment, encoder: Encoder, config: TextToTokenConfig
) -> list[tuple[Spoken, str]]:
    """(what is said, speaker) of the pairs that fit a sequence."""
    examples = list(zip(spoken(pairs, alignment), [pair.speaker for pair in pairs], strict=True))
    return within(examples, encoder, config.sequence_length)


def _spread(pairs: list[Pair], count: int) -> list[Pair]:
    """At most `count` pairs, evenly from the whole list, so that every corpus is among them."""
    if len(pairs) <= count:
        return pairs
    return [pairs[i] for i in np.linspace(0, len(pairs) - 1, count).astype(int)]


def _listen(
    config: TextToTokenConfig,
    folder: Path,
    unseen: list[Pair],
    alignment: Alignment,
    inputs: Inputs,
    tracker: Tracker,
) -> tuple[list[dict[str, float]], dict[str, float]]:
    """Say the unseen sentences and a span of each, and hear them with the speech tokenizer."""
    from components.speech_tokenizer.model import load as load_ear

    ear = load_ear(inputs.folder("speech_tokenizer", "model"))
    engine = make_engine(dataclasses.replace(config.engine, model=str(folder)))
    asked = ask(unseen, alignment, config.mean_span, config.seed)
    return hear(load(folder), engine, ear.transcribe, asked, config, tracker)

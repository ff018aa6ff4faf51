"""The story of pretrain: the planned sequences, a model with speech tokens, one pass over the schedule."""

from __future__ import annotations

import math
import time
from dataclasses import replace
from functools import partial

import torch

from components.pretrain.config import PretrainConfig
from components.pretrain.samples import continue_samples
from components.shared.lm_module import LanguageModelModule
from components.shared.manifest import read_manifest, seal
from components.shared.packed_attention import packed
from components.shared.packed_data import PackedData, PackedLoader
from components.shared.places import Inputs, Outputs
from components.shared.speech_lm import SpeechTextLM, grown_model, load_model, random_model, save_model
from components.shared.strategies import num_ranks, rank, whole_state
from components.shared.tokens import Vocabulary, load_tokenizer
from components.shared.tracking import Tracker
from components.shared.training import fit
from components.shared.training_config import StrategyKind


def run(config: PretrainConfig, inputs: Inputs, outputs: Outputs, tracker: Tracker) -> dict[str, float]:
    """Train the speech-text language model on interleaved, text and speech tokens.

    Reads   data/mix/shards, data/mix/tokenizer
    Writes  data/pretrain/model/ (Hugging Face folder)
    Metrics validation_loss, validation_loss_text, validation_loss_speech, validation_loss_<source>_source: nats per
            token of held-out sequences; tokens_per_s without padding; num_parameters; num_steps
    Source  Zeng et al. 2024, section 2.4

    Raises ValueError when the schedule holds fewer sequences than num_steps needs, or the base does not fit.
    """
    shards, tokens = inputs.folder("mix", "shards"), inputs.folder("mix", "tokenizer")
    extra = read_manifest(tokens).extra
    tokenizer = load_tokenizer(tokens)
    vocabulary = Vocabulary.of(tokenizer, int(extra["num_codes"]))
    train = PackedData(shards, "train")
    if train.vocabulary_size != vocabulary.size:
        raise ValueError(
            f"{shards}: made for {train.vocabulary_size} token ids, but {tokens} has {vocabulary.size}; run mix again"
        )
    validation = PackedData(shards, "validation")
    trainer = replace(config.trainer, num_steps=_num_steps(config, len(train)))

    if config.base:
        pad_to = config.shape.pad_vocabulary_to
        model = grown_model(config.base, vocabulary, int(extra["num_base_tokens"]), pad_to, config.seed)
    else:
        model = random_model(config.shape, vocabulary, 4 * train.sequence_length, config.seed)
    num_parameters = sum(p.numel() for p in model.parameters())
    tracker.say(
        f"pretrain: {num_parameters / 1e6:.1f}M parameters, {trainer.num_steps} steps of "
        f"{config.batch_sequences * trainer.accumulate_batches} x {train.sequence_length} tokens"
    )
    module = LanguageModelModule(
        model,
        vocabulary,
        config.optimizer,
        num_steps=trainer.num_steps,
        sources=train.sources,
        chunk=config.loss_chunk,
        log_every_steps=trainer.log_every_steps,
        compute=config.compute,
    )
    batches = trainer.num_steps * trainer.accumulate_batches
    held_out = math.ceil(len(validation) / config.batch_sequences)
    loader = partial(
        PackedLoader,
        batch_size=config.batch_sequences,
        attend_across=config.attend_across,
        rank=rank(),
        world_size=num_ranks(),
    )
    torch.set_num_threads(config.num_threads)
    started = time.perf_counter()
    with packed(model):
        metrics = fit(
            module,
            loader(train, num_batches=batches),
            loader(validation, num_batches=held_out) if held_out else None,
            trainer,
            tracker=tracker,
            checkpoints=outputs.checkpoints,
            what="pretrain",
        )
    metrics |= module.summary() | {
        "num_parameters": float(num_parameters),
        "num_steps": float(trainer.num_steps),
        "seconds": time.perf_counter() - started,
    }
    folder = outputs.folder("model")
    save_model(folder, model, tokenizer, vocabulary, whole_state(model))
    if rank() == 0:
        seal(folder)
        tracker.log_model(folder, "pretrain")
        sharded = trainer.strategy is StrategyKind.fsdp2 and num_ranks() > 1
        lm = load_model(folder) if sharded else SpeechTextLM(folder, model, tokenizer, vocabulary)
        continue_samples(lm, validation, tracker)
    outputs.write_stats(shards=[metrics], rows=[])
    return metrics


def _num_steps(config: PretrainConfig, num_sequences: int) -> int:
    """Steps of one pass over the schedule, or the smaller number that the config asks for."""
    step = config.batch_sequences * config.trainer.accumulate_batches
    whole = math.ceil(num_sequences / step)
    if config.trainer.num_steps > whole:
        raise ValueError(
            f"pretrain.trainer.num_steps: got {config.trainer.num_steps}, but the schedule has {num_sequences} "
            f"sequences, enough for {whole} steps of {step}; raise mix.total_tokens"
        )
    return config.trainer.num_steps or whole

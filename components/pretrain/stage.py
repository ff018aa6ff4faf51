"""The story of pretrain: the planned sequences, a model with speech tokens, one pass over the schedule."""

from __future__ import annotations

import math
import time
from dataclasses import replace
from functools import partial

import torch

from components.pretrain.config import PretrainConfig
from components.pretrain.samples import continue_samples
from components.pretrain.spikes import SpikeReport
from components.shared.lm_module import LanguageModelModule
from components.shared.loss_guard import LossGuard
from components.shared.manifest import read_manifest, seal
from components.shared.packed_attention import packed
from components.shared.packed_data import PackedData
from components.shared.packed_loader import PackedLoader, cache_of
from components.shared.packing import LabelRule
from components.shared.places import Inputs, Outputs
from components.shared.shard_check import check_shards
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

    Raises ValueError when a shard is not the one that was planned, the schedule holds fewer sequences than num_steps
    needs, the base does not fit, or a step's loss is a spike (spikes.py).
    """
    shards, tokens = inputs.folder("mix", "shards"), inputs.folder("mix", "tokenizer")
    extra = read_manifest(tokens).extra
    tokenizer = load_tokenizer(tokens)
    vocabulary = Vocabulary.of(tokenizer, int(extra["num_codes"]))
    hashed = check_shards(shards, config.loader.verify, outputs.work)
    tracker.say(f"pretrain: {hashed / 1e9:.2f} GB of shards hashed")
    cache = cache_of(config.loader, outputs.work)
    train = PackedData(shards, "train", cache)
    if train.vocabulary_size != vocabulary.size:
        raise ValueError(
            f"{shards}: made for {train.vocabulary_size} token ids, but {tokens} has {vocabulary.size}; run mix again"
        )
    validation = PackedData(shards, "validation", cache)
    num_steps, skipped = _num_steps(config, len(train)), frozenset(config.watch.skip_steps)
    trainer = replace(config.trainer, num_steps=num_steps - len(skipped))

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
        num_steps=num_steps,  # the schedule of the learning rate stays as it was planned
        sources=train.sources,
        chunk=config.loss_chunk,
        log_every_steps=trainer.log_every_steps,
        compute=config.compute,
        guard=LossGuard(config.watch),
        on_spike=SpikeReport(train, config.batch_sequences, trainer.accumulate_batches, outputs.work, tracker),
    )
    batches = num_steps * trainer.accumulate_batches
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
            loader(
                train,
                num_batches=batches,
                labels=LabelRule.of(config.labels, train.sources, vocabulary),
                accumulate_batches=trainer.accumulate_batches,
                skipped=skipped,
                num_workers=config.loader.num_workers,
                prefetch_sequences=config.loader.prefetch_sequences,
            ),
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
    """Steps of one pass over the schedule, or the smaller number that the config asks for; skipped ones included."""
    step = config.batch_sequences * config.trainer.accumulate_batches
    whole = math.ceil(num_sequences / step)
    if config.trainer.num_steps > whole:
        raise ValueError(
            f"pretrain.trainer.num_steps: got {config.trainer.num_steps}, but the schedule has {num_sequences} "
            f"sequences, enough for {whole} steps of {step}; raise mix.total_tokens"
        )
    num_steps = config.trainer.num_steps or whole
    beyond = [step for step in config.watch.skip_steps if step >= num_steps]
    if beyond:
        raise ValueError(f"pretrain.watch.skip_steps: got {beyond[0]}, wanted steps 0..{num_steps - 1} of the schedule")
    return num_steps

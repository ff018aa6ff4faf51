"""One phase of the training: its batches, its module, and validation speech that is heard on the way."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from components.shared.audio import read_wave
from components.shared.tracking import Tracker
from components.shared.training import fit
from components.speech_decoder.config import PhaseConfig, SpeechDecoderConfig
from components.speech_decoder.data import Batches, BatchSize, Corpus, FromStep, Pair
from components.speech_decoder.hearing import Hearing
from components.speech_decoder.hift import Hift
from components.speech_decoder.layout import MelScale, Saved
from components.speech_decoder.mel import FRAMES_PER_S
from components.speech_decoder.model import SpeechDecoder
from components.speech_decoder.module import DecoderModule, Weights
from components.speech_decoder.speech import Judge

Decode = Callable[[SpeechDecoder, Pair], torch.Tensor]
"""A way to make the wave of a pair: (samples,), float32, 22.05 kHz."""


def saved_of(
    weights: Weights, scale: MelScale, config: SpeechDecoderConfig, corpus: Corpus, vocoder: Hift | None = None
) -> Saved:
    """The decoder of these weights, with the speakers that some phase trains on.

    The one with the most speech speaks unless another is asked for.
    """
    table = weights.speakers.weight.detach().cpu()
    trained = max((phase.num_speakers or len(corpus.speakers) for phase in config.phases), default=0)
    return Saved(
        flow=weights.flow,
        shape=config.shape,
        tokens_per_s=corpus.tokens_per_s,
        scale=scale,
        speakers=dict(zip(corpus.speakers[:trained], table[:trained], strict=True)),
        default_speaker=corpus.speakers[0],
        compatible=config.compatible,
        sampler=config.sampler,
        stream=config.stream,
        griffin_lim=config.griffin_lim,
        sigma_min=config.objective.sigma_min,
        drop_share=config.objective.drop_share,
        vocoder=vocoder,
    )


def train_phase(
    phase: PhaseConfig,
    number: int,
    weights: Weights,
    scale: MelScale,
    config: SpeechDecoderConfig,
    corpus: Corpus,
    checkpoints: Path,
    tracker: Tracker,
) -> tuple[Weights, dict[str, float]]:
    """One phase: the averaged weights at its end, and its last validation losses.

    Raises ValueError when validation speech is heard and its word error rate does not fall.
    """
    seed = int(np.random.default_rng([config.seed, number]).integers(2**31))
    block = config.shape.encoder.block_size if phase.block_prompts else 0
    module = DecoderModule(
        weights,
        scale,
        config.objective,
        phase,
        optimizer=config.optimizer,
        weight_decay=config.weight_decay,
        betas=(config.betas[0], config.betas[1]),
        ema_decay=config.ema_decay,
        prompt_unit=block / corpus.tokens_per_s * FRAMES_PER_S if block else 1.0,
        seed=seed,
    )
    part = corpus.of_speakers(phase.num_speakers)
    num_batches = phase.trainer.num_steps * phase.trainer.accumulate_batches
    size = BatchSize(
        max_crop_s=config.data.max_crop_s,
        frames_per_batch=phase.frames_per_batch,
        block_tokens=block,
        max_blocks=config.stream.history_blocks + 1,
    )
    train = Batches(corpus, part.train, size, seed=seed, num_batches=num_batches)
    held = part.validation[: config.data.num_validation]
    validation = FromStep(Batches(corpus, held, size, seed=seed, num_batches=None), lambda: 0, 0) if held else None
    loader = FromStep(train, lambda: module.global_step * phase.trainer.accumulate_batches, config.data.num_workers)
    last = fit(
        module,
        loader,
        validation,
        phase.trainer,
        tracker=tracker,
        checkpoints=checkpoints / phase.name,
        what=f"speech_decoder: {phase.name}",
        callbacks=hearings(phase, module, scale, config, part, tracker),
    )
    return module.average, {name.rsplit("/", 1)[-1]: value for name, value in last.items()}


def hearings(
    phase: PhaseConfig,
    module: DecoderModule,
    scale: MelScale,
    config: SpeechDecoderConfig,
    part: Corpus,
    tracker: Tracker,
) -> list[Hearing]:
    """What listens while this phase trains; nothing without a judge, or without speech that it understands."""
    if not config.judge or not config.hearing.every_steps:
        return []
    judge = Judge(config.judge)
    pairs = spread(judge.known(part.validation), config.hearing.num_sentences)
    if not pairs:
        return []
    if phase.trainer.num_steps // config.hearing.every_steps <= config.hearing.patience:
        tracker.say(f"speech_decoder: phase {phase.name} is heard too seldom to be ended by what is heard")

    def waves(decode: Decode) -> list[np.ndarray]:
        decoder = SpeechDecoder(saved_of(module.average, scale, config, part), module.device)
        return [decode(decoder, pair).numpy() for pair in pairs]

    def listen(step: int) -> float:
        made = waves(_decoded if phase.flow else _content)
        tracker.log_audio(made[0], SpeechDecoder.sample_rate_hz, f"{pairs[0].id}-{phase.name}-{step}")
        return judge.rate(made, pairs)

    def explain() -> str:
        return reason(judge.rate(waves(_vocoded), pairs), judge.rate(waves(_content), pairs), config)

    return [Hearing(config.hearing, phase.name, listen, explain, tracker)]


def spread(pairs: Sequence[Pair], count: int) -> list[Pair]:
    """So many pairs, the first of each speaker before the second of any."""
    turns: Counter[str] = Counter()
    order = []
    for place, pair in enumerate(pairs):
        order.append((turns[pair.speaker], place))
        turns[pair.speaker] += 1
    return [pairs[place] for _, place in sorted(order)[:count]]


def _decoded(decoder: SpeechDecoder, pair: Pair) -> torch.Tensor:
    return decoder.decode(pair.tokens, pair.speaker)


def _content(decoder: SpeechDecoder, pair: Pair) -> torch.Tensor:
    return decoder.to_wave(decoder.content_mel(pair.tokens))


def _vocoded(decoder: SpeechDecoder, pair: Pair) -> torch.Tensor:
    return decoder.vocode(torch.from_numpy(read_wave(pair.audio, decoder.sample_rate_hz)[0]))


def reason(vocoded: float, content: float, config: SpeechDecoderConfig) -> str:
    """Where to look when decoded speech is not understood: word error rates of the vocoder and of the content alone."""
    enough = config.hearing.enough
    if vocoded > enough:
        return f"the vocoder alone has {vocoded:.2f}: look at the vocoder, the mel settings or the judge {config.judge}"
    if content <= enough:
        return f"the content alone has {content:.2f}: look at the flow: its learning rate, straight_start, its batch"
    hint = "try a phase with flow: false first, code_start: true"
    if not config.objective.prior_weight:
        hint = "objective.prior_weight is 0, nothing ties tokens to sound early: try 1"
    return (
        f"the content alone has {content:.2f}, the vocoder {vocoded:.2f}: do tokens and audio belong together? {hint}"
    )

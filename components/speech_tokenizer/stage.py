"""Fine-tune a Whisper into a WhisperVQ: speech -> tokens -> text."""

from __future__ import annotations

import os
from collections import defaultdict
from dataclasses import dataclass

import torch

from components.shared.audio import WHISPER_RATE_HZ, read_wave
from components.shared.contracts import Utterance
from components.shared.manifest import read_table, seal
from components.shared.places import Inputs, Outputs
from components.shared.recognizer import error_measure, word_error_rate
from components.shared.tracking import Tracker
from components.shared.training import fit, seeded
from components.speech_tokenizer import checkpoint
from components.speech_tokenizer.batch import Clip, ClipFeatures, changes_waves
from components.speech_tokenizer.config import SpeechTokenizerConfig
from components.speech_tokenizer.data import Batches, Loader, choose_clips, validation_loader
from components.speech_tokenizer.figures import codebook_figure
from components.speech_tokenizer.model import SpeechTokenizer, load
from components.speech_tokenizer.module import TokenizerTraining
from components.speech_tokenizer.quantizer import code_use
from components.speech_tokenizer.start import Start, make_start
from components.speech_tokenizer.teacher import keep_in_memory
from components.speech_tokenizer.transcripts import Transcripts


def run(config: SpeechTokenizerConfig, inputs: Inputs, outputs: Outputs, tracker: Tracker) -> dict[str, float]:
    """Train the speech tokenizer on transcribed utterances and write it as a folder.

    Reads   data/collect/utterances     (contracts.Utterance)
    Writes  data/speech_tokenizer/model (published GLM-4-Voice layout)
    Metrics validation WER (Mandarin: CER) per language and origin, share of codes used, restarts, what was dropped
    Source  Zeng et al. 2024, section 2.1

    Raises ValueError when no utterance can be used or the configuration cannot work.
    """
    folder = inputs.folder("collect", "utterances")
    tracker.log_dataset(folder, "utterances", "train")
    rows = list(read_table(folder, Utterance))
    with seeded(config.seed):
        start = make_start(config, rows, tracker)
    transcripts = Transcripts(start.tokenizer)
    room = start.network.config.max_target_positions
    train, dropped = choose_clips(rows, folder, "train", config, transcripts, room)
    spoken, _ = choose_clips(rows, folder, "validation", config, transcripts, room)
    validation = _spread([clip for clip in spoken if clip.transcript], config.num_validation)
    for reason, count in sorted(dropped.items()):
        tracker.say(f"speech_tokenizer: {count} training utterances left out: {reason}")
    hours = sum(clip.duration_s for clip in train) / 3600
    tracker.say(f"speech_tokenizer: {len(train)} clips, {hours:.2f} h; {len(validation)} for validation")

    module = TokenizerTraining(start.network, start.teacher, transcripts, config)
    with seeded(config.seed):
        watched = _train(module, start, train, validation, config, outputs, tracker)

    model = outputs.folder("model")
    checkpoint.write(module.network, model, start.tokenizer)
    seal(model, extra={"num_codes": config.num_codes, "tokens_per_s": start.network.config.tokens_per_s})
    tracker.log_model(model, "speech_tokenizer")
    figures = _look(load(model), validation, tracker)
    outputs.write_stats(shards=[figures.shard], rows=figures.rows)
    return {
        **watched,
        **figures.shard,
        "hours": hours,
        "random_start": float(start.is_random),
        "fell_back_to_random_start": float(start.is_fallback),
        **{f"dropped_{reason}": float(count) for reason, count in dropped.items()},
    }


def _train(
    module: TokenizerTraining,
    start: Start,
    train: list[Clip],
    validation: list[Clip],
    config: SpeechTokenizerConfig,
    outputs: Outputs,
    tracker: Tracker,
) -> dict[str, float]:
    """Loaders and the training loop; returns the last validation's figures."""
    shape, pad = start.network.config, module.transcripts.end
    features = ClipFeatures(train, shape, config.augment, config.seed, pad, needs_clean=module.needs_teacher)
    if config.keep_in_memory:
        if changes_waves(config.augment):
            raise ValueError("speech_tokenizer.keep_in_memory: got true, wanted false, since augment changes waves")
        autocast = torch.bfloat16 if config.trainer.precision.startswith("bf16") else None
        path = outputs.checkpoints / "kept.safetensors"  # good for these inputs and this code alone
        keep_in_memory(features, start.network.encoder, start.teacher, config.batch_s, path, autocast, tracker)
    rank, ranks = (int(os.environ.get(name, default)) for name, default in (("RANK", "0"), ("WORLD_SIZE", "1")))
    loader = Loader(Batches(train, config, rank, ranks), features, config.num_loaders)
    plain = ClipFeatures(validation, shape, None, config.seed, pad)
    watched = validation_loader(validation, plain, config.batch_s)
    return fit(
        module,
        loader,
        watched if validation else None,
        config.trainer,
        tracker=tracker,
        checkpoints=outputs.checkpoints,
        what="speech_tokenizer",
    )


def _spread(clips: list[Clip], wanted: int) -> list[Clip]:
    """So many clips, as evenly as possible from every language, origin and corpus, each time the first by id."""
    groups: dict[tuple[str, str, str], list[Clip]] = defaultdict(list)
    for clip in sorted(clips, key=lambda clip: clip.id):
        groups[clip.language, clip.origin, clip.corpus].append(clip)
    chosen: list[Clip] = []
    for place in range(max((len(group) for group in groups.values()), default=0)):
        chosen += [group[place] for _, group in sorted(groups.items()) if place < len(group)]
    return chosen[:wanted]


@dataclass
class _Look:
    shard: dict[str, float]
    rows: list[dict[str, float]]


def _look(tokenizer: SpeechTokenizer, clips: list[Clip], tracker: Tracker) -> _Look:
    """The finished folder at work on the validation clips: figures, a picture of its codebook, what it wrote."""
    waves = [torch.from_numpy(read_wave(clip.path, WHISPER_RATE_HZ)[0]) for clip in clips]
    tokens = tokenizer.encode(waves)
    texts = tokenizer.transcribe(tokens, [clip.language for clip in clips])
    counts = torch.bincount(torch.cat([*tokens, torch.empty(0, dtype=torch.int64)]), minlength=tokenizer.num_codes)
    rows, lines = [], ["| id | said | transcribed from its tokens |", "|---|---|---|"]
    for clip, ids, text in zip(clips, tokens, texts, strict=True):
        wer = word_error_rate([clip.text], [text], clip.language).rate
        rows.append(
            {"wer": wer, "tokens_per_s": len(ids) / clip.duration_s, "distinct_codes": float(len(ids.unique()))}
        )
        lines.append(f"| {clip.id} | {clip.text} | {text} |")
    tracker.log_text("\n".join(lines) + "\n", "validation_transcripts.md")
    codebook = tokenizer.network.encoder.codebook.weight.float().cpu()
    tracker.log_figure(codebook_figure(codebook, counts.float()), "codebook")
    if clips:
        tracker.log_audio(waves[0].numpy(), WHISPER_RATE_HZ, "validation_sample")
    used, perplexity = code_use(counts.float())
    by_origin: dict[str, list[int]] = defaultdict(list)
    for place, clip in enumerate(clips):
        by_origin[f"{error_measure(clip.language)}_{clip.language}_{clip.origin}"].append(place)
    wers = {
        name: word_error_rate(
            [clips[i].text for i in places], [texts[i] for i in places], clips[places[0]].language
        ).rate
        for name, places in sorted(by_origin.items())
    }
    return _Look({"codes_used": used, "perplexity": perplexity, "num_codes": float(tokenizer.num_codes), **wers}, rows)

"""After how many steps, and how much CPU, does a small HiFT sound better than Griffin-Lim?

    python -m benchmarks.vocoder [SETTING=VALUE ...] [--data data] [--steps N] [--every K] [--sentences 12] [--judge]
                                 [--folder FOLDER]

Trains HiFT as the speech_decoder stage does, on the synthesised English of data/collect/utterances, with the settings
of speech_decoder.vocoder at tiny scale; SETTING=VALUE changes one, as shape.base_channels=64 does. Every K steps the
averaged network and, once, Griffin-Lim make waves of the mels of the same unseen validation sentences:

mel: mean absolute difference of the log mels, natural log; cents and voicing: median error of the pitch heard in the
wave where both are voiced, and share of frames voiced in one alone; mos: DistillMOS of the wave (--judge), 1..5.

With a folder the run can be stopped and started again: it holds checkpoints, rows.json and the last waves.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypedDict

import lightning
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.trainer.states import TrainerFn
from tqdm import tqdm

from components.config import load_config
from components.shared.audio import write_flac
from components.shared.contracts import Utterance
from components.shared.manifest import inside, read_table
from components.shared.tracking import TerminalTracker
from components.shared.training import fit
from components.speech_decoder.config import VocoderConfig
from components.speech_decoder.data import FromStep, Pair, speakers_by_hours
from components.speech_decoder.griffin_lim import griffin_lim
from components.speech_decoder.mel import SAMPLE_RATE_HZ, log_mel
from components.speech_decoder.pitch import pitch_of
from components.speech_decoder.vocoder import whole_wave
from components.speech_decoder.vocoder_data import CropBatches, Waves, WholeWaves, long_enough
from components.speech_decoder.vocoder_losses import mel_loss, pitch_errors
from components.speech_decoder.vocoder_module import VocoderModule
from components.speech_decoder.vocoder_training import make_module

Vocoder = Callable[[torch.Tensor], torch.Tensor]
SPOKEN_S = (2.0, 8.0)
"""Sentences that are judged are neither a word nor a story."""


class Figures(TypedDict):
    """Means over the sentences; cents: None when nothing is voiced, mos: None without a judge."""

    mel: float
    cents: float | None
    voicing: float
    mos: float | None


class Row(Figures):
    """One vocoder after so many steps; seconds: of training, in this and earlier pieces of the run."""

    vocoder: str
    steps: int
    seconds: float
    cpu_seconds: float


def pairs_of(utterances: Path) -> tuple[list[Pair], list[Pair]]:
    """Training and validation utterances of the synthesised English speech, without tokens."""
    pairs: dict[str, list[Pair]] = {"train": [], "validation": []}
    for row in read_table(utterances, Utterance):
        if row.origin == "synthesized" and row.language == "en" and row.split in pairs:
            pair = Pair(
                id=row.id,
                audio=inside(utterances, row.audio),
                tokens=np.zeros(0, dtype=np.uint16),
                text=row.text,
                language=row.language,
                speaker=row.speaker,
                split=row.split,
                duration_s=row.duration_s,
            )
            pairs[row.split].append(pair)
    return pairs["train"], pairs["validation"]


def spread(pairs: list[Pair], count: int) -> list[Pair]:
    """So many sentences, evenly from all that are neither short nor long."""
    fit = sorted((pair for pair in pairs if SPOKEN_S[0] <= pair.duration_s <= SPOKEN_S[1]), key=lambda pair: pair.id)
    return [fit[round(place)] for place in np.linspace(0, len(fit) - 1, min(count, len(fit)))]


class Sentences:
    """The validation sentences and what each vocoder makes of their mels."""

    def __init__(self, pairs: list[Pair], waves: Waves, judged: bool) -> None:
        self._ids, self._originals = [pair.id for pair in pairs], [waves.of(pair)[0] for pair in pairs]
        self._judge = _judge() if judged else None

    def measure(self, vocoder: Vocoder, folder: Path) -> Figures:
        """mel, cents, voicing and mos, means over the sentences; the waves are written to the folder."""
        made = [vocoder(log_mel(wave)) for wave in self._originals]
        waves = [wave.numpy() for wave in made]
        errors = [_heard(ours, theirs) for ours, theirs in zip(made, self._originals, strict=True)]
        for name, wave in zip(self._ids, waves, strict=True):
            write_flac(folder / f"{name}.flac", wave, SAMPLE_RATE_HZ)
        cents = [cents for cents, _ in errors if np.isfinite(cents)]
        return Figures(
            mel=float(np.mean([float(mel_loss(o, t)) for o, t in zip(made, self._originals, strict=True)])),
            cents=float(np.mean(cents)) if cents else None,
            voicing=float(np.mean([voicing for _, voicing in errors])),
            mos=float(np.mean(self._judge.score(waves, SAMPLE_RATE_HZ))) if self._judge else None,
        )

    def originals(self, mel: torch.Tensor) -> torch.Tensor:
        """Not a vocoder: the recording of that mel."""
        return next(wave for wave in self._originals if torch.equal(log_mel(wave), mel))


def _heard(made: torch.Tensor, original: torch.Tensor) -> tuple[float, float]:
    ours, theirs = (torch.from_numpy(pitch_of(wave.numpy())) for wave in (made, original))
    errors = pitch_errors(ours, theirs, 0.0)
    return float(errors.cents), float(errors.voicing)


def _judge() -> Any:
    from components.shared.distillmos import DistillMos

    return DistillMos()


class Rows(Callback):
    """A row at every validation, printed and written at once; time spent on measuring is left out."""

    def __init__(self, sentences: Sentences, folder: Path) -> None:
        self.sentences, self._folder = sentences, folder
        self._spent, self._begun = (0.0, 0.0), (time.perf_counter(), time.process_time())
        path = folder / "rows.json"
        self.rows: list[Row] = json.loads(path.read_text())["rows"] if path.is_file() else []

    def add(self, vocoder: str, steps: int, made: Vocoder, spent: tuple[float, float] = (0.0, 0.0)) -> None:
        """Measure a vocoder after so many steps; spent: seconds and CPU seconds of its training."""
        figures = self.sentences.measure(made, self._folder / f"waves-{vocoder}")
        row = Row(vocoder=vocoder, steps=steps, seconds=spent[0], cpu_seconds=spent[1], **figures)
        self.rows = [old for old in self.rows if (old["vocoder"], old["steps"]) != (vocoder, steps)] + [row]
        show(row)
        temporary = self._folder / "rows.json.new"
        temporary.write_text(json.dumps({"rows": self.rows}, indent=1) + "\n")
        temporary.replace(self._folder / "rows.json")

    def on_train_start(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        earlier = [row for row in self.rows if row["vocoder"] == "hift" and row["steps"] <= trainer.global_step]
        last = max(earlier, key=lambda row: row["steps"], default=None)
        self._spent = (last["seconds"], last["cpu_seconds"]) if last else (0.0, 0.0)
        self._start()

    def _start(self) -> None:
        self._begun = time.perf_counter(), time.process_time()

    def on_validation_start(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        now = time.perf_counter(), time.process_time()
        self._spent = (self._spent[0] + now[0] - self._begun[0], self._spent[1] + now[1] - self._begun[1])

    def on_validation_end(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        assert isinstance(module, VocoderModule)
        if trainer.state.fn == TrainerFn.FITTING:
            with torch.no_grad():
                self.add("hift", trainer.global_step, partial(vocode, module), self._spent)
            self._start()


def vocode(module: VocoderModule, mel: torch.Tensor) -> torch.Tensor:
    """mel: (80, F) -> (256 F,), on the CPU, by the averaged network where it is."""
    return whole_wave(module.average, mel.to(module.device)).cpu()


def show(row: Row) -> None:
    cents, mos = (" " * 8 if value is None else f"{value:8.2f}" for value in (row["cents"], row["mos"]))
    spent = f"{row['seconds']:9.0f} s{row['cpu_seconds']:9.0f} s"
    line = f"{row['vocoder']:12s}{row['steps']:8d}{spent}{row['mel']:8.3f}{cents}{row['voicing']:9.3f}{mos}"
    tqdm.write(line, file=sys.stdout)
    sys.stdout.flush()


def train(config: VocoderConfig, seed: int, data: Path, folder: Path, num_sentences: int, judged: bool) -> list[Row]:
    """All rows: the recordings, Griffin-Lim, then HiFT at every validation."""
    everyone, held = pairs_of(data / "collect/utterances")
    names = speakers_by_hours(everyone)
    chosen = set(names[: config.num_speakers or len(names)])
    waves = Waves(config.keep_waves)
    sentences = spread([pair for pair in held if pair.speaker in chosen], num_sentences)
    rows = Rows(Sentences(sentences, waves, judged), folder)
    print(f"{'vocoder':12s}{'steps':>8s}{'time':>11s}{'CPU':>11s}{'mel':>8s}{'cents':>8s}{'voicing':>9s}     mos")
    for row in rows.rows:
        show(row)
    if not rows.rows:
        limit = load_config(["scale=tiny"]).speech_decoder.griffin_lim
        rows.add("recording", 0, rows.sentences.originals)
        rows.add("griffin_lim", 0, lambda mel: griffin_lim(mel, limit))
    module = make_module(config, seed)
    batches = CropBatches(
        long_enough([pair for pair in everyone if pair.speaker in chosen], config.crop_frames, Counter()),
        waves,
        crop_frames=config.crop_frames,
        rows=config.rows_per_batch,
        seed=seed,
        num_batches=config.trainer.num_steps,
    )
    fit(
        module,
        FromStep(batches, lambda: module.global_step, 0),
        FromStep(WholeWaves(sentences[:1], waves), lambda: 0, 0),
        config.trainer,
        tracker=TerminalTracker(),
        checkpoints=folder / "checkpoints",
        what="vocoder",
        callbacks=[rows],
    )
    return rows.rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("settings", nargs="*", help="settings below speech_decoder.vocoder, as shape.base_channels=64")
    parser.add_argument("--data", type=Path, default=Path("data"), help="folder that holds collect/utterances")
    parser.add_argument("--steps", type=int, default=8000)
    parser.add_argument("--every", type=int, default=500, help="steps between two rows and two checkpoints")
    parser.add_argument("--sentences", type=int, default=12)
    parser.add_argument("--judge", action="store_true", help="score the waves with DistillMOS")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--folder", type=Path, help="keep checkpoints, rows and waves here, and go on from them")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    own = [f"speech_decoder.vocoder.{setting}" for setting in options.settings]
    budget = {
        "num_steps": options.steps,
        "validate_every_steps": options.every,
        "checkpoint_every_steps": options.every,
    }
    own += [f"speech_decoder.vocoder.trainer.{name}={value}" for name, value in budget.items()]
    config = load_config(["scale=tiny", *own])
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        train(config.speech_decoder.vocoder, config.seed, options.data, folder, options.sentences, options.judge)


if __name__ == "__main__":
    main()

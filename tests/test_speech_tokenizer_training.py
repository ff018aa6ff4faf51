"""Training of the speech tokenizer: start of the codebook, resume, several processes, the whole stage."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from small_whisper import SMALL, utterance
from torch import Tensor

from components.shared.contracts import Utterance
from components.shared.manifest import write_table
from components.shared.places import Inputs, Outputs
from components.shared.tracking import TerminalTracker
from components.shared.training import fit, seeded
from components.speech_tokenizer import stage, start
from components.speech_tokenizer.batch import Batch, ClipFeatures
from components.speech_tokenizer.codebook_start import kmeans, start_codebook
from components.speech_tokenizer.config import SpeechTokenizerConfig
from components.speech_tokenizer.data import Batches, Loader, choose_clips
from components.speech_tokenizer.model import load
from components.speech_tokenizer.module import TokenizerTraining
from components.speech_tokenizer.quantizer import nearest_codes
from components.speech_tokenizer.teacher import keep_in_memory
from components.speech_tokenizer.transcripts import Transcripts
from components.speech_tokenizer.whisper_vq import Encoder


class Kept(TerminalTracker):
    """Remembers lines and curves."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.curves: list[tuple[int | None, dict[str, float]]] = []

    def say(self, line: str) -> None:
        self.lines.append(line)

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self.curves.append((step, metrics))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data folder with 16 short clips to train on and 4 to validate on."""
    folder = tmp_path / "data" / "collect" / "utterances"
    (folder / "audio").mkdir(parents=True)
    rng = np.random.default_rng(0)
    rows = []
    for number in range(20):
        samples = int(16_000 * (0.5 + 0.07 * number))
        # A tone that rises, in noise that comes and goes: frames of a steady one are all alike, and so are codes made
        # of them, between which rounding would choose.
        time_s = np.arange(samples) / 16_000
        sound = 0.2 * np.sin(2 * np.pi * (200 + 100 * number * (1 + time_s)) * time_s)
        sound += rng.normal(0, 0.1, samples) * np.square(np.sin(5 * time_s + number))
        soundfile.write(folder / "audio" / f"u{number}.flac", sound, 16_000)
        split = "train" if number < 16 else "validation"
        origin = "recorded" if number % 2 else "synthesized"
        rows.append(utterance(f"u{number}", samples / 16_000, split=split, origin=origin))
    write_table(folder, rows, Utterance)
    return tmp_path / "data"


def training(
    data: Path, config: SpeechTokenizerConfig, rank: int = 0, ranks: int = 1
) -> tuple[TokenizerTraining, Loader]:
    """A module with a random teacher, and its batches."""
    folder = data / "collect" / "utterances"
    rows = [row for row in _rows(folder)]
    made = start.make_start(config, rows, Kept())
    with seeded(11):
        teacher = Encoder(start._without_bottleneck(made.network.config))
    transcripts = Transcripts(made.tokenizer)
    clips, _ = choose_clips(rows, folder, "train", config, transcripts, 448)
    features = ClipFeatures(clips, made.network.config, config.augment, 3, transcripts.end, needs_clean=True)
    module = TokenizerTraining(made.network, teacher, transcripts, config)
    return module, Loader(Batches(clips, config, rank, ranks), features, 0)


def _rows(folder: Path) -> Iterator[Utterance]:
    from components.shared.manifest import read_table

    return read_table(folder, Utterance)


# --- the start of the codebook


def test_the_codebook_start_looks_along_what_predicts_and_not_along_position() -> None:
    """Strong position, weak content: codes tell the content and agree in where they stand."""
    generator = torch.Generator().manual_seed(0)
    content = torch.randint(0, 6, (4000,), generator=generator)
    place = torch.randint(0, 30, (4000,), generator=generator)
    meaning = torch.randn(6, 16, generator=generator)
    where = 6 * torch.randn(30, 16, generator=generator)
    hidden = torch.cat([meaning[content], where[place]], dim=1) + 0.05 * torch.randn(4000, 32, generator=generator)
    wanted = meaning[content] @ torch.randn(16, 20, generator=generator) + where[place] @ torch.randn(
        16, 20, generator=generator
    )

    def purity(codebook: Tensor) -> float:
        ids = nearest_codes(hidden, codebook)
        table = torch.zeros(len(codebook), 6).index_put_((ids, content), torch.ones(4000), accumulate=True)
        return float(table.max(1).values.sum() / 4000)

    guided, _ = start_codebook(hidden, wanted, place, 12, 5, 10, seed=0)
    plain, _ = kmeans(hidden, 12, 10, seed=0)
    assert purity(guided) > 0.95 > 0.5 > purity(plain)


def test_without_a_teacher_the_codebook_start_is_plain_kmeans() -> None:
    hidden = torch.randn(100, 8, generator=torch.Generator().manual_seed(0))
    places = torch.zeros(100, dtype=torch.int64)
    assert torch.equal(start_codebook(hidden, None, places, 5, 4, 3, 1)[0], kmeans(hidden, 5, 3, 1)[0])


# --- training


class Stop(Exception):
    """A kill in the middle of training."""


def test_a_run_that_was_killed_and_resumed_ends_bit_equal(data: Path, tmp_path: Path) -> None:
    whole, loader = training(data, SMALL)
    with seeded(1):
        fit(whole, loader, None, SMALL.trainer, tracker=Kept(), checkpoints=tmp_path / "whole", what="t")

    killed, loader = training(data, SMALL)
    step = killed.training_step

    def training_step(batch: Batch, batch_idx: int) -> Tensor:
        if killed.global_step == 6:
            raise Stop
        return step(batch, batch_idx)

    killed.training_step = training_step  # type: ignore[method-assign]
    with seeded(1), pytest.raises(Stop):
        fit(killed, loader, None, SMALL.trainer, tracker=Kept(), checkpoints=tmp_path / "killed", what="t")
    resumed, loader = training(data, SMALL)
    with seeded(2):
        fit(resumed, loader, None, SMALL.trainer, tracker=Kept(), checkpoints=tmp_path / "killed", what="t")
    for (name, a), b in zip(whole.network.state_dict().items(), resumed.network.state_dict().values(), strict=True):
        assert torch.equal(a, b), name


def test_layers_computed_again_give_the_same_gradients_and_move_the_codebook_once(data: Path) -> None:
    ended = []
    for again in (False, True):
        module, loader = training(data, replace(SMALL, checkpoint_activations=again))
        encoder = module.network.encoder.train()
        batch = loader.features[0, [0, 5, 7]]
        states, valid, quantised = encoder(batch.features, batch.mask)
        (states[valid].square().sum() + quantised.commitment).backward()
        assert int(encoder.training_passes) == 1
        ended.append({name: value.grad for name, value in encoder.named_parameters() if value.grad is not None})
        ended[-1] |= {"codebook": encoder.codebook.weight.detach(), "count": encoder.ema_count}
    plain, checkpointed = ended
    assert "layers.0.fc1.weight" in plain and list(plain) == list(checkpointed)
    for name, value in plain.items():
        torch.testing.assert_close(checkpointed[name], value, atol=1e-6, rtol=1e-5)


def test_batches_are_added_up_to_a_step_and_the_codebook_stays_in_float32(data: Path, tmp_path: Path) -> None:
    trainer = replace(SMALL.trainer, num_steps=4, accumulate_batches=3, precision="bf16-mixed")
    module, loader = training(data, replace(SMALL, trainer=trainer, quantize_from_step=0))
    tracker = Kept()
    with seeded(1):
        fit(module, loader, None, trainer, tracker=tracker, checkpoints=tmp_path, what="t")
    encoder = module.network.encoder
    assert loader.given >= 12 and int(encoder.training_passes) in (11, 12)
    assert {value.dtype for value in encoder.state_dict().values()} == {torch.float32, torch.int64}
    losses = [values["loss"] for _, values in tracker.curves if "loss" in values]
    assert losses and all(np.isfinite(losses))


TWO_RANKS = """
import os, sys
from pathlib import Path
from dataclasses import replace
import torch
sys.path.insert(0, {tests!r})
from test_speech_tokenizer_training import SMALL, Kept, fit, seeded, training
data, target = Path({data!r}), Path({target!r})
ranks = int(os.environ.get("WORLD_SIZE", "1"))
config = replace(SMALL, batch_s=8.0 / ranks, lr=1e-4, num_codes=63, trainer=replace(SMALL.trainer, num_steps=20))
torch.set_num_threads(1)
module, loader = training(data, config, int(os.environ.get("RANK", "0")), ranks)
with seeded(1):
    fit(module, loader, None, config.trainer, tracker=Kept(), checkpoints=target.parent / f"work-{{ranks}}", what="t")
if os.environ.get("RANK", "0") == "0":
    torch.save((module.network.state_dict(), module.restarts), target)
"""


@pytest.mark.slow
def test_one_process_and_two_end_with_the_same_codebook_and_encoder(data: Path, tmp_path: Path) -> None:
    ended = []
    for ranks in (1, 2):
        target, script = tmp_path / f"{ranks}.pt", tmp_path / f"{ranks}.py"
        script.write_text(TWO_RANKS.format(tests=str(Path(__file__).parent), data=str(data), target=str(target)))
        start_ranks = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"] if ranks > 1 else []
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[1])}
        subprocess.run([sys.executable, *start_ranks, str(script)], check=True, env=environment, timeout=300)
        ended.append(torch.load(target, weights_only=False))
    (one, restarts), (two, restarts_of_two) = ended
    assert restarts == restarts_of_two > 0
    for name, value in one.items():
        torch.testing.assert_close(
            two[name], value, atol=1e-5, rtol=1e-4, msg=lambda text, name=name: f"{name}: {text}"
        )


def test_a_whisper_that_cannot_be_had_becomes_a_random_start_said_loudly(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreachable(source: str) -> None:
        raise ConnectionError(f"{source}: the package index cannot be reached")

    monkeypatch.setattr(start, "load_whisper", unreachable)
    tracker = Kept()
    made = start.make_start(replace(SMALL, start_from="piece:whisper-base"), [], tracker)
    assert made.is_random and made.is_fallback
    assert any("RANDOM START" in line for line in tracker.lines)
    with pytest.raises(ValueError, match="tokens_per_s"):
        start.make_start(replace(SMALL, tokens_per_s=13.0), [], tracker)
    with pytest.raises(ValueError, match="kmeans_frames"):
        start.make_start(replace(SMALL, kmeans_frames=3), [], tracker)


@pytest.mark.parametrize("tokens_per_s", [50.0, 25.0, 12.5, 6.25])
def test_the_stage_writes_a_folder_that_loads_at_every_frame_rate(data: Path, tokens_per_s: float) -> None:
    tracker = Kept()
    outputs = Outputs(root=data / "speech_tokenizer", work=data / "work")
    for folder in (outputs.root, outputs.work):
        folder.mkdir()
    config = replace(SMALL, tokens_per_s=tokens_per_s)
    metrics = stage.run(config, Inputs(data), outputs, tracker)
    outputs.publish(metrics)
    tokenizer = load(outputs.root / "model")
    assert tokenizer.tokens_per_s == tokens_per_s and tokenizer.num_codes == 12
    [tokens] = tokenizer.encode([torch.zeros(16_000)])
    assert len(tokens) == np.ceil(tokens_per_s)
    assert {"wer_en_recorded", "wer_en_synthesized", "codes_used", "random_start"} <= set(metrics)
    assert metrics["random_start"] == 1.0
    logged = {name for _, values in tracker.curves for name in values}
    wanted = {"text_loss", "commitment", "codes_used", "perplexity", "dead_codes", "restarts", "validation_text_loss"}
    assert wanted <= logged


@pytest.mark.parametrize("frozen", [False, True])
def test_what_is_kept_in_memory_is_what_would_be_read_and_computed(data: Path, tmp_path: Path, frozen: bool) -> None:
    names = ["encoder.conv", "encoder.layers.0."] if frozen else []
    module, loader = training(data, replace(SMALL, frozen=names))
    features, encoder = loader.features, module.network.encoder
    read = features[0, [0, 5]]
    keep_in_memory(features, encoder, module._teacher[0], 4.0, tmp_path / "kept.safetensors", None, Kept())
    kept = features[0, [0, 5]]
    assert features.keeps_front == frozen == (kept.front is not None)
    with torch.no_grad():
        hidden, valid = module._hidden(read)
        hidden_kept, valid_kept = module._hidden(kept)
    wanted, wanted_kept = module._wanted(read, valid), module._wanted(kept, valid_kept)
    length = valid_kept.shape[1]
    assert torch.equal(valid[:, :length], valid_kept[:, : valid.shape[1]]) and int(valid.sum()) == int(valid_kept.sum())
    torch.testing.assert_close(hidden_kept[valid_kept], hidden[valid], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(wanted_kept, wanted, atol=0.05, rtol=0.02)

"""The un-quantised Whisper as a teacher: its final states, pooled to the rate of the tokens.

Ours, not the paper's: a transcript says little about a clip, these states say 512 numbers or more about every 80 ms,
and they need no transcript. A decoder that reads them keeps working when it reads an encoder that is close to them.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from components.shared.manifest import atomic
from components.shared.tracking import Tracker
from components.speech_tokenizer.batch import Batch, ClipFeatures, Kept
from components.speech_tokenizer.data import in_order
from components.speech_tokenizer.whisper_vq import Encoder, pool


@torch.no_grad()
def pooled_states(teacher: Encoder, clean: Tensor, mask: Tensor, kernel: int) -> Tensor:
    """Final states averaged over the valid frames of each token: clean (B, M, F), mask (B, F) -> (B, K, D) float32."""
    states, valid, _ = teacher(clean, mask)
    weight = valid[..., None].float()
    return pool(states * weight, valid, kernel)[0].float() / pool(weight, valid, kernel)[0].clamp(min=1e-6)


def keep_in_memory(
    features: ClipFeatures,
    student: Encoder,
    teacher: Encoder | None,
    batch_s: float,
    path: Path,
    autocast: torch.dtype | None,
    tracker: Tracker,
) -> None:
    """Fill features.kept: what the student hears of every clip and what the teacher makes of it, computed once.

    Where the student's layers below pooling are frozen their states are kept, otherwise the log-mel features. Batches
    are fixed, so that the result depends on nothing but the clips; it stays in a file for a restart. autocast: number
    format of the products.
    """
    features.keeps_front = not any(value.requires_grad for value in student.front_parameters())
    if not path.is_file():
        plain = ClipFeatures(features.clips, features.shape, None, features.seed, features.pad)
        plain.needs_clean = features.needs_clean
        front = student if features.keeps_front else None
        tensors: dict[str, Tensor] = {}
        numbered = list(enumerate(in_order(features.clips, batch_s)))
        for key in tracker.progress(numbered, len(numbered), "speech_tokenizer: states of the un-quantised Whisper"):
            with torch.autocast("cpu", dtype=autocast or torch.bfloat16, enabled=autocast is not None):
                tensors |= _of_batch(plain[key], front, teacher, features.shape.kernel)
        with atomic(path) as temporary:
            save_file(tensors, temporary)
    tensors = load_file(path)
    for clip in features.clips:
        heard, length, wanted = (tensors[f"{name}.{clip.id}"] for name in ("heard", "length", "wanted"))
        features.kept[clip.id] = Kept(heard, int(length), wanted)


@torch.no_grad()
def _of_batch(batch: Batch, student: Encoder | None, teacher: Encoder | None, kernel: int) -> dict[str, Tensor]:
    """Each clip's own part of a batch, in whole tokens: heard.<id>, length.<id>, wanted.<id>."""
    assert batch.features is not None
    wanted = torch.zeros(len(batch.clips), 0, 1)
    if teacher is not None and batch.clean is not None:
        wanted = pooled_states(teacher, batch.clean, batch.mask, kernel)
    heard = batch.features
    if student is not None:
        training, student.training = student.training, False
        heard = student.front(batch.features, batch.mask)[0].float().transpose(1, 2)
        student.training = training
    found = {}
    for clip, row, states, frames in zip(batch.clips, heard, wanted, batch.mask.sum(1).tolist(), strict=True):
        tokens = -(-frames // (2 * kernel))
        own = row[:, : 2 * kernel * tokens] if student is None else row[:, :tokens].T
        found[f"heard.{clip.id}"] = own.contiguous().clone()
        found[f"length.{clip.id}"] = torch.tensor(frames if student is None else tokens)
        found[f"wanted.{clip.id}"] = states[:tokens].to(torch.bfloat16).clone()
    return found

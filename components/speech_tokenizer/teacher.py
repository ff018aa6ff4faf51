"""The un-quantised Whisper as a teacher: its final states, pooled to the rate of the tokens.

Ours, not the paper's: a transcript says little about a clip, these states say 512 numbers or more about every 80 ms,
and they need no transcript. A decoder that reads them keeps working when it reads an encoder that is close to them.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from components.shared.manifest import atomic
from components.shared.tracking import Tracker
from components.speech_tokenizer.batch import Clip, ClipFeatures, Kept
from components.speech_tokenizer.data import in_order
from components.speech_tokenizer.whisper_vq import Encoder, pool


@torch.no_grad()
def pooled_states(teacher: Encoder, clean: Tensor, mask: Tensor, kernel: int) -> Tensor:
    """Final states averaged over the valid frames of each token: clean (B, M, F), mask (B, F) -> (B, K, D) float32."""
    states, valid, _ = teacher(clean, mask)
    weight = valid[..., None].float()
    return pool(states * weight, valid, kernel)[0].float() / pool(weight, valid, kernel)[0].clamp(min=1e-6)


def keep_in_memory(
    teacher: Encoder | None,
    features: ClipFeatures,
    batch_s: float,
    path: Path,
    autocast: torch.dtype | None,
    tracker: Tracker,
) -> dict[str, Kept]:
    """Features of all clips and what the teacher makes of them, computed once and kept in a file for a restart.

    Batches are fixed, so that the result depends on nothing but the clips. autocast: number format of the products.
    """
    if not path.is_file():
        numbered = list(enumerate(in_order(features.clips, batch_s)))
        tensors: dict[str, Tensor] = {}
        for key in tracker.progress(numbered, len(numbered), "speech_tokenizer: states of the un-quantised Whisper"):
            tensors |= _of_batch(teacher, features, key, autocast)
        with atomic(path) as temporary:
            save_file(tensors, temporary)
    tensors = load_file(path)
    return {clip.id: Kept(tensors[f"features.{clip.id}"], tensors[f"wanted.{clip.id}"]) for clip in features.clips}


def _of_batch(
    teacher: Encoder | None, features: ClipFeatures, key: tuple[int, list[int]], autocast: torch.dtype | None
) -> dict[str, Tensor]:
    batch = features[key]
    wanted: Tensor = torch.zeros(len(batch.clips), 0, 1)
    kernel = features.shape.kernel
    if teacher is not None and batch.clean is not None:
        with torch.autocast("cpu", dtype=autocast or torch.bfloat16, enabled=autocast is not None):
            wanted = pooled_states(teacher, batch.clean, batch.mask, kernel)
    return dict(_rows(batch.clips, batch.features, batch.mask.sum(1).tolist(), wanted, kernel))


def _rows(
    clips: list[Clip], features: Tensor, lengths: list[int], wanted: Tensor, kernel: int
) -> Iterator[tuple[str, Tensor]]:
    """Each clip's own part of a batch, without padding."""
    for clip, frames, states, length in zip(clips, features, wanted, lengths, strict=True):
        yield f"features.{clip.id}", frames[:, :length].clone()
        yield f"wanted.{clip.id}", states[: -(-length // (2 * kernel))].to(torch.bfloat16).clone()

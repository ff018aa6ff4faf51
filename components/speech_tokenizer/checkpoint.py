"""WhisperVQ folders on disk, and a WhisperVQ made from a Whisper or from nothing.

Folder  config.json, model.safetensors (or its shards and index), tokenizer.json, preprocessor_config.json
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import Tensor

from components.shared.audio import WHISPER_RATE_HZ
from components.shared.features import HOP, WINDOW
from components.shared.manifest import inside, read_json, write_json
from components.speech_tokenizer.whisper_config import WhisperVQConfig
from components.speech_tokenizer.whisper_vq import WhisperVQ

WEIGHTS, INDEX, TOKENIZER = "model.safetensors", "model.safetensors.index.json", "tokenizer.json"
TRAINING_ONLY = "model.encoder.training_passes"
"""State that a run's own checkpoints keep and a published folder does not have."""
TIED = ("proj_out.weight", "lm_head.weight")
"""Copies of the decoder's token embedding that some folders hold."""


def read(folder: Path, *, encoder_only: bool = False) -> WhisperVQ:
    """The network of a folder in float32 on the CPU, in evaluation mode; encoder_only: no layer behind the quantiser.

    Raises ValueError naming the file, or the first tensor that is missing, foreign or of another shape.
    """
    config = WhisperVQConfig.read(folder)
    network = WhisperVQ(config, encoder_only=encoder_only)
    fill(network, {_published_name(name): value for name, value in _tensors(folder).items()}, str(folder))
    return network.eval()


def fill(network: WhisperVQ, tensors: dict[str, Tensor], where: str) -> None:
    """Copy tensors into the network; what an encoder-only network does not need is passed over."""
    wanted = {name: value for name, value in network.state_dict().items() if name != TRAINING_ONLY}
    missing = [name for name in wanted if name not in tensors]
    if missing:
        raise ValueError(f"{where}: {missing[0]}: tensor missing, {len(missing)} in all")
    extra = [name for name in tensors if name not in wanted and name not in TIED and name != TRAINING_ONLY]
    if extra and "decoder" in network.model:
        raise ValueError(f"{where}: {extra[0]}: tensor that the config has no place for, {len(extra)} in all")
    for name, value in wanted.items():
        if tensors[name].shape != value.shape:
            raise ValueError(f"{where}: {name}: got {tuple(tensors[name].shape)}, wanted {tuple(value.shape)}")
    network.load_state_dict({name: tensors[name].float() for name in wanted}, strict=False)


def write(network: WhisperVQ, folder: Path, tokenizer: Tokenizer | None) -> None:
    """Write the published layout, with the text tokenizer when there is one."""
    folder.mkdir(parents=True, exist_ok=True)
    network.config.write(folder)
    state = {name: value.detach().float().cpu() for name, value in network.state_dict().items()}
    state.pop(TRAINING_ONLY, None)
    save_file({name: value.contiguous() for name, value in state.items()}, folder / WEIGHTS, {"format": "pt"})
    extractor = {
        "feature_extractor_type": "WhisperFeatureExtractor",
        "feature_size": network.config.num_mel_bins,
        "sampling_rate": WHISPER_RATE_HZ,
        "hop_length": HOP,
        "n_fft": WINDOW,
        "chunk_length": 30,
        "padding_side": "right",
        "padding_value": 0.0,
        "return_attention_mask": True,
    }
    write_json(folder / "preprocessor_config.json", extractor)
    if tokenizer is not None:
        tokenizer.save(str(folder / TOKENIZER))


def from_whisper(whisper: Any, config: WhisperVQConfig) -> WhisperVQ:
    """A WhisperVQ with a Whisper's weights: second position table from the first rows, codebook still empty.

    whisper: transformers' WhisperForConditionalGeneration of the same size as config. Raises ValueError when not.
    """
    network = WhisperVQ(config)
    tensors = {name: value for name, value in whisper.state_dict().items() if name not in TIED}
    own = network.state_dict()
    for name in ("codebook.weight", "ema_count", "ema_weight", "embed_positions2.weight"):
        key = f"model.encoder.{name}"
        if key in own:
            tensors[key] = own[key]
    if "model.encoder.embed_positions2.weight" in tensors:
        rows = own["model.encoder.embed_positions2.weight"].shape[0]
        tensors["model.encoder.embed_positions2.weight"] = tensors["model.encoder.embed_positions.weight"][:rows]
    fill(network, tensors, "start from Whisper")
    return network


def randomise(network: WhisperVQ, seed: int) -> None:
    """Whisper's initialisation: normal weights of deviation 0.02, sinusoids in the encoder's position tables."""
    generator = torch.Generator().manual_seed(seed)
    for name, value in network.state_dict().items():
        if "embed_positions" in name and "encoder" in name:
            value.copy_(_sinusoids(*value.shape))
        elif value.dim() > 1:
            value.copy_(torch.empty_like(value).normal_(0.0, 0.02, generator=generator))
        elif name.endswith(".bias"):
            value.zero_()


def _sinusoids(rows: int, width: int) -> Tensor:
    rates = torch.exp(-torch.arange(width // 2) * (torch.log(torch.tensor(10_000.0)) / (width // 2 - 1)))
    angles = torch.arange(rows)[:, None] * rates[None, :]
    return torch.cat([angles.sin(), angles.cos()], dim=1)


def _tensors(folder: Path) -> dict[str, Tensor]:
    """All tensors of a folder, from one file or from its shards."""
    names = [WEIGHTS]
    if not (folder / WEIGHTS).is_file():
        if not (folder / INDEX).is_file():
            raise ValueError(f"{folder}: neither {WEIGHTS} nor {INDEX}; wanted a WhisperVQ folder")
        names = sorted(set(read_json(folder / INDEX)["weight_map"].values()))
    tensors: dict[str, Tensor] = {}
    for name in names:
        try:
            tensors |= load_file(inside(folder, name))
        except (SafetensorError, OSError) as error:
            raise ValueError(f"{folder / name}: not a whole safetensors file: {error}") from error
    return tensors


def _published_name(name: str) -> str:
    """Encoder-only folders may leave the prefix out."""
    if name in TIED or name.startswith("model."):
        return name
    return f"model.{name}" if name.startswith(("encoder.", "decoder.")) else f"model.encoder.{name}"

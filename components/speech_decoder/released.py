"""Files of a decoder's folder, ours or released: the configuration as one record, weights as tensors by name.

Released decoders come as config.yaml, a script for building Python objects, flow.pt and hift.pt. The script is read as
plain data, its classes are not looked at, and the weights by torch's weights_only reader, which builds nothing but
tensors.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from components.shared.manifest import read_json

CONFIG, RELEASED_CONFIG = "config.json", "config.yaml"


def find(folder: Path, name: str) -> Path | None:
    """The weights `name` (such as flow.safetensors) or, where there are none, the released flow.pt; None: neither."""
    for path in (folder / name, (folder / name).with_suffix(".pt")):
        if path.is_file():
            return path
    return None


def read_record(folder: Path) -> tuple[Path, dict[str, Any]]:
    """The configuration's file and its sections: config.json, or a released config.yaml in that form.

    Raises ValueError when the folder has neither, or one that is not a speech decoder's.
    """
    path = folder / CONFIG
    if path.is_file():
        return path, read_json(path)
    path = folder / RELEASED_CONFIG
    if not path.is_file():
        raise ValueError(f"{folder / CONFIG}: not there; wanted a speech decoder's folder")
    try:
        script = _plain(yaml.load(path.read_text(encoding="utf-8"), Loader=_DataOnly), None)
        flow, hift = script["flow"], script["hift"]
        decoder = flow["decoder"]
        record = {
            "flow": {key: value for key, value in flow.items() if not isinstance(value, dict)},
            "encoder": flow["encoder"],
            "length_regulator": flow["length_regulator"],
            "cfm": decoder["cfm_params"]["content"],
            "estimator": decoder["estimator"],
            "hift": {key: value for key, value in hift.items() if key != "f0_predictor"},
            "f0_predictor": hift["f0_predictor"],
        }
    except (yaml.YAMLError, KeyError, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"{path}: not a released speech decoder's configuration: {reason}") from error
    return path, record


class _DataOnly(yaml.SafeLoader):
    """Reads `!new:some.Class` and its like as the mapping, list or word that follows."""


def _untag(loader: yaml.SafeLoader, tag: str, node: yaml.Node) -> Any:
    if isinstance(node, yaml.MappingNode):
        return loader.construct_mapping(node, deep=True)
    if isinstance(node, yaml.SequenceNode):
        return loader.construct_sequence(node, deep=True)
    value = loader.construct_scalar(node)  # type: ignore[arg-type]
    return _Reference(value) if tag == "ref" else value


_DataOnly.add_multi_constructor("!", _untag)


class _Reference(str):
    """`<name>`: the value of a key at the top of the file."""


def _plain(value: Any, top: dict[str, Any] | None) -> Any:
    """The value with its references followed; those to anything but a key at the top stay words."""
    if top is None:
        top = value if isinstance(value, dict) else {}
    if isinstance(value, _Reference):
        return top.get(value.strip("<>"), str(value))
    if isinstance(value, dict):
        return {key: _plain(inner, top) for key, inner in value.items()}
    return [_plain(inner, top) for inner in value] if isinstance(value, list) else value


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Tensors by name of a safetensors file or, by its ending .pt, of a released state dict.

    Raises ValueError when the file is not there, not readable, or holds anything else.
    """
    if not path.is_file():
        raise ValueError(f"{path}: not there; wanted the weights beside {CONFIG}")
    if path.suffix != ".pt":
        try:
            return load_file(path)
        except SafetensorError as error:
            raise ValueError(f"{path}: not readable as safetensors: {error}") from error
    try:
        held = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a broken file fails wherever its bytes lead the reader
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(f"{path}: not readable as tensors alone (weights_only): {reason}") from error
    if not isinstance(held, dict):
        raise ValueError(f"{path}: got a {type(held).__name__}, wanted tensors by name")
    foreign = [name for name, value in held.items() if not isinstance(value, Tensor)]
    if foreign:
        raise ValueError(f"{path}: got {foreign[:3]}, which are no tensors, wanted tensors by name")
    return held

"""The schema of params.yaml (the method) and conf/scale/<scale>.yaml (the size), and the one way to load them.

Every section is the dataclass of its room; a value stands in exactly one of the two files. Sections are composed by
Hydra and checked by OmegaConf: an unknown key, a wrong type or a missing value is a ValueError of one line.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml.error import MarkedYAMLError

from components.collect.config import CollectConfig
from components.dialogues.config import DialoguesConfig
from components.evaluate.config import EvaluateConfig
from components.mix.config import MixConfig
from components.pretrain.config import PretrainConfig
from components.report.config import ReportConfig
from components.sft.config import SftConfig
from components.shared.checks_config import ChecksConfig
from components.speech_decoder.config import SpeechDecoderConfig
from components.speech_tokenizer.config import SpeechTokenizerConfig
from components.synthesize.config import SynthesizeConfig
from components.text_to_token.config import TextToTokenConfig
from components.tokenize.config import TokenizeConfig


@dataclass(kw_only=True)
class Config:
    """The whole configuration. Sections are named as their rooms and stand in the order of the flow."""

    scale: str
    """Name of the file in conf/scale: smoke, tiny, h100 or h800."""
    seed: int
    """Root of all randomness; every section that has a seed gets this one."""
    collect: CollectConfig
    speech_tokenizer: SpeechTokenizerConfig
    tokenize: TokenizeConfig
    text_to_token: TextToTokenConfig
    synthesize: SynthesizeConfig
    mix: MixConfig
    pretrain: PretrainConfig
    dialogues: DialoguesConfig
    sft: SftConfig
    speech_decoder: SpeechDecoderConfig
    evaluate: EvaluateConfig
    report: ReportConfig
    checks: ChecksConfig


STAGES = tuple(field.name for field in fields(Config) if field.name not in ("scale", "seed", "checks"))
SHARED = ("seed", "scale")
"""Fields of a section that are the configuration's own unless they are given. As ${seed} in params.yaml they would be
written out by `dvc exp run -S`, and every stage would run again."""
SCALES = ("smoke", "tiny", "h100", "h800")


def load_config(overrides: list[str] | None = None, root: Path | None = None) -> Config:
    """Compose params.yaml, the scale it names and overrides such as "pretrain.lr=3e-4" into a checked Config.

    root: the folder that holds params.yaml and conf/scale, by default the current one.
    Raises ValueError, in one line, for an unknown key, a wrong type or a missing value.
    """
    root = (root or Path.cwd()).resolve()
    overrides = list(overrides or [])
    if not (root / "params.yaml").is_file():
        raise ValueError(f"params.yaml: no such file in {root}; run from the project's root")
    try:
        merged = _compose(root, overrides)
    except (HydraException, OmegaConfBaseException) as error:
        raise ValueError(_one_line(error)) from error
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{mark.name}, line {mark.line + 1}" if mark else "params.yaml or conf/scale"
        raise ValueError(f"{where}: not YAML: {error.problem}") from error
    missing = sorted(OmegaConf.missing_keys(merged))
    if missing:
        where = f"params.yaml and conf/scale/{merged.scale}.yaml"
        raise ValueError(f"{missing[0]}: no value in {where}; {len(missing)} missing in all: {', '.join(missing[:5])}")
    config = OmegaConf.to_object(merged)
    assert isinstance(config, Config)
    return config


def _compose(root: Path, overrides: list[str]) -> DictConfig:
    GlobalHydra.instance().clear()
    with initialize_config_dir(config_dir=str(root), version_base="1.3"):
        scale = compose("params", overrides=[o for o in overrides if o.startswith("scale=")]).get("scale")
        available = sorted(path.stem for path in (root / "conf" / "scale").glob("*.yaml"))
        if scale not in available:
            raise ValueError(f"scale: got {scale!r}, wanted one of {', '.join(available)}, in params.yaml")
        # ++ takes any key, so that the schema, and not Hydra, says which ones there are
        given = [o if o.startswith(("+", "~")) else f"++{o}" for o in overrides]
        composed = compose("params", overrides=[f"+conf/scale@_global_={scale}", *given])
    OmegaConf.set_struct(composed, False)
    schema = OmegaConf.structured(Config)
    names = {field.name for field in fields(Config)}
    for section, value in composed.items():
        if section not in names:
            wanted = ", ".join(sorted(names))
            raise ValueError(f"{section!s}: unknown section in params.yaml or conf/scale/{scale}.yaml; known: {wanted}")
        schema = OmegaConf.merge(schema, {section: value})
    for section in (schema[stage] for stage in STAGES if not OmegaConf.is_missing(schema, stage)):
        for name in SHARED:
            if OmegaConf.is_missing(section, name):
                section[name] = schema[name]
    OmegaConf.resolve(schema)
    assert isinstance(schema, DictConfig)
    return schema


def _one_line(error: Exception) -> str:
    """The first line of a Hydra or OmegaConf message with the full key in front."""
    cause: BaseException = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    text = str(cause).strip()
    key = getattr(cause, "full_key", None) or ""
    found = re.search(r"full_key: (\S+)", text)
    key = key or (found.group(1) if found else "")
    line = text.splitlines()[0] if text else type(cause).__name__
    return f"{key}: {line}" if key and not line.startswith(key) else line


def as_dict(section: Any) -> dict[str, Any]:
    """A section as plain nested dicts and lists, for tracking and for hashing."""
    container = OmegaConf.to_container(OmegaConf.structured(section), resolve=True, enum_to_str=True)
    assert isinstance(container, dict)
    return {str(key): value for key, value in container.items()}

"""config.json of a WhisperVQ folder: the published fields by their published names, and three of ours.

Source  published configuration of the GLM-4-Voice speech tokenizer
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from components.shared.manifest import read_json, write_json
from components.speech_tokenizer.config import FeatureNormalization

FRAMES_PER_S = 100
"""Log-mel frames a second in every Whisper."""
HIDDEN_PER_S = 50
"""Frames a second after the second convolution."""
FLAGS = {"architectures": ["WhisperVQForConditionalGeneration"], "model_type": "whisper", "activation_function": "gelu"}
OPTIONAL: dict[str, Any] = {
    "feature_normalization": "clip",
    "feature_floor": None,
    "languages": None,
    "quantize_causal_encoder": False,
    "encoder_causal_attention": False,
    "encoder_causal_convolution": False,
    "quantize_encoder_only": False,
    "suppress_tokens": None,
    "begin_suppress_tokens": None,
    "dropout": 0.0,
    "attention_dropout": 0.0,
    "activation_dropout": 0.0,
}
"""Fields that a published folder may lack, and what it means then."""


@dataclass(kw_only=True)
class WhisperVQConfig:
    """Shape of a WhisperVQ. Without pooling and quantiser it is a plain Whisper."""

    num_mel_bins: int
    d_model: int
    encoder_layers: int
    encoder_attention_heads: int
    encoder_ffn_dim: int
    decoder_layers: int
    decoder_attention_heads: int
    decoder_ffn_dim: int
    vocab_size: int
    max_source_positions: int
    """Rows of the encoder's position table, at 50 frames a second."""
    max_target_positions: int
    decoder_start_token_id: int
    bos_token_id: int
    eos_token_id: int
    pad_token_id: int
    suppress_tokens: list[int] | None
    """Text ids that decoding never gives."""
    begin_suppress_tokens: list[int] | None
    """Text ids that decoding never gives first."""
    dropout: float
    attention_dropout: float
    activation_dropout: float
    encoder_causal_convolution: bool
    encoder_causal_attention: bool
    """Every encoder layer sees the past only."""
    quantize_causal_encoder: bool
    """The layers up to the quantiser see the past only."""
    quantize_causal_block_size: int | None
    """Frames of a block at 50 a second: a frame sees the past and its own block. null: no blocks."""
    pooling_kernel_size: int | None
    """Frames averaged into one token; null: no pooling."""
    pooling_type: str
    """avg"""
    pooling_position: int | None
    """Number of encoder layers before pooling."""
    quantize_position: int | None
    """Number of encoder layers before the quantiser."""
    quantize_vocab_size: int | None
    """Codes; null: no quantiser."""
    quantize_ema_decay: float | None
    quantize_commit_coefficient: float
    quantize_loss_scale: float
    quantize_restart_interval: int | None
    """Training passes between two restarts of dead codes; null: never."""
    quantize_encoder_only: bool
    """The folder holds the layers up to the quantiser and nothing behind it."""
    feature_normalization: str
    """clip | fixed: see FeatureNormalization. Ours; a published folder means clip."""
    feature_floor: float | None
    """The constant floor of fixed, in decades of mel power. Ours."""
    languages: list[str] | None
    """Languages it was trained on, ISO 639-1; null: all that its vocabulary knows. Ours."""

    def __post_init__(self) -> None:
        """Raise ValueError for a shape that cannot work."""
        if self.quantize_vocab_size is None:
            return
        for name, position in (("quantize", self.quantize_position), ("pooling", self.pooling_position)):
            needed = name == "quantize" or self.pooling_kernel_size is not None
            if needed and (position is None or not 1 <= position <= self.encoder_layers):
                raise ValueError(f"{name}_position: got {position}, wanted 1..{self.encoder_layers} (encoder_layers)")
        if self.pooling_kernel_size is not None and self.pooling_position > self.quantize_position:  # type: ignore[operator]
            raise ValueError(
                f"pooling_position: got {self.pooling_position}, which lies behind the quantiser; "
                f"wanted at most quantize_position={self.quantize_position}"
            )
        if self.pooling_type != "avg":
            raise ValueError(f"pooling_type: got {self.pooling_type!r}, wanted avg")
        block = self.quantize_causal_block_size
        if block is not None and block % self.kernel:
            raise ValueError(
                f"quantize_causal_block_size: got {block}, wanted a multiple of pooling_kernel_size={self.kernel}"
            )
        FeatureNormalization(self.feature_normalization)
        if self.is_fixed and self.feature_floor is None:
            raise ValueError("feature_floor: got null, wanted a number, since feature_normalization is fixed")

    @property
    def kernel(self) -> int:
        """Frames pooled into one token, 1 without pooling."""
        return self.pooling_kernel_size or 1

    @property
    def tokens_per_s(self) -> float:
        """Speech tokens a second."""
        return HIDDEN_PER_S / self.kernel

    @property
    def is_fixed(self) -> bool:
        """Whether features are cut off at a constant floor."""
        return self.feature_normalization == FeatureNormalization.fixed.value

    @property
    def streams(self) -> bool:
        """Whether a block's tokens depend on nothing behind the block."""
        causal = self.encoder_causal_attention or self.quantize_causal_encoder
        return self.encoder_causal_convolution and (self.quantize_causal_block_size is not None or causal)

    @property
    def is_quantised(self) -> bool:
        """Whether there is a codebook."""
        return self.quantize_vocab_size is not None

    @property
    def is_pooled(self) -> bool:
        """Whether frames are averaged into tokens."""
        return self.is_quantised and self.pooling_kernel_size is not None

    @classmethod
    def read(cls, folder: Path) -> WhisperVQConfig:
        """config.json of a folder. Raises ValueError naming the first field that is missing or cannot work."""
        path = folder / "config.json"
        if not path.is_file():
            raise ValueError(f"{path}: no such file; wanted a WhisperVQ folder")
        record = OPTIONAL | read_json(path)
        names = [field.name for field in fields(cls)]
        missing = [name for name in names if name not in record]
        if missing:
            raise ValueError(f"{path}: {missing[0]}: missing, {len(missing)} fields in all; wanted a WhisperVQ config")
        try:
            return cls(**{name: record[name] for name in names})
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error

    def write(self, folder: Path) -> None:
        """Write config.json."""
        write_json(folder / "config.json", FLAGS | asdict(self))

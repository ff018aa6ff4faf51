"""Settings of the text_to_token stage."""

from __future__ import annotations

from dataclasses import dataclass

from components.shared.engine import EngineConfig
from components.shared.lm_config import LmShapeConfig, OptimizerConfig
from components.shared.training_config import TrainerConfig


@dataclass(kw_only=True)
class GuidanceConfig:
    """Guided attention in the early steps (guidance.py); the paper had the data to do without."""

    weight: float
    """Weight beside the cross-entropy at the first step; 0 leaves it out."""
    until: float
    """Share of the steps after which it is gone, 0..1; it falls linearly."""
    layer: int
    """Decoder layer whose first two heads are guided, from 0."""
    iterations: int
    """Of expectation-maximisation in the alignment."""
    num_pairs: int
    """Most training pairs that the alignment is learnt from."""


@dataclass(kw_only=True)
class TextToTokenConfig:
    """Section text_to_token of params.yaml and conf/scale."""

    seed: int
    """Root of the stage's randomness."""
    words_in_speech: bool
    """Whether each text token is written once more before the speech tokens that say it (Song et al. 2024, ELLA-V: then
    the model always knows where it is, and skipped or repeated words are seen); the paper has speech tokens alone."""
    speaker_share: float
    """Share of the training pairs that name their speaker, 0..1; the rest teaches to do without."""
    crossed_share: float
    """Share of the training pairs, two by two of a voice, that swap their ends between words (crossing.py)."""
    joined_share: float
    """Share of the training pairs, two by two of a voice, that are said one after the other."""
    noise_share: float
    """Share of the speech tokens that are read wrongly in training, so that the model goes by the text."""
    guidance: GuidanceConfig
    """How the alignment of text and speech is found early."""
    label_smoothing: float
    """Probability that the training target gives to all other tokens together."""
    vocab_size: int
    """Text tokens of the byte-level BPE, at least 256 and at most 16384."""
    shape: LmShapeConfig
    """Shape of the model (paper: 1.5B parameters in all, the shape is not stated)."""
    optimizer: OptimizerConfig
    """How it learns."""
    sequence_length: int
    """Tokens of a packed sequence; longer pairs are dropped and counted."""
    batch_size: int
    """Packed sequences a batch."""
    trainer: TrainerConfig
    """Budget of the training."""
    temperature: float
    """Sampling temperature of what validation hears; 0 is greedy."""
    top_p: float
    """Nucleus of the same."""
    mean_span: float
    """Mean length of the spans that validation hears, in words, as synthesis will ask for them (paper, section 2.3)."""
    num_validation: int
    """Validation pairs whose texts, and a span of each, are said and heard at the end; also the most that the
    validation loss reads."""
    engine: EngineConfig
    """What says them."""

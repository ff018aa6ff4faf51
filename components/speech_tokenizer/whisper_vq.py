"""WhisperVQ: Whisper with average pooling and a vector-quantised bottleneck in the middle of its encoder.

Shapes: B clips, M mel bins, F mel frames (100 a second), T hidden frames (50 a second), K speech tokens, D width,
V codes, L text tokens.
Source  Zeng et al. 2024, section 2.1; public inference code of GLM-4-Voice (masks, positions, quantiser)
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from components.speech_tokenizer.layers import (
    Cache,
    Convolution,
    DecoderBlock,
    EncoderBlock,
    attention_mask,
)
from components.speech_tokenizer.quantizer import commitment, ema_update, nearest_codes, restart_dead_codes
from components.speech_tokenizer.whisper_config import WhisperVQConfig


@dataclass
class Quantised:
    """What the bottleneck made of a batch."""

    hidden: Tensor
    """(B, K, D) codes, in training with a straight-through gradient to the states before."""
    token_ids: Tensor
    """(B, K) int64, 0..V-1, also where not valid."""
    commitment: Tensor
    """Scalar: masked mean squared distance of the states to their codes, unscaled."""
    counts: Tensor
    """(V,) float32: how often each code was used at valid positions; empty outside training."""
    restarted: int
    """Codes that were dead and got a new vector in this pass."""


class Encoder(nn.Module):
    """Whisper's encoder in two halves, `before` and `after` the bottleneck.

    only_to_quantizer: build no layer behind the quantiser (encoding needs none).
    """

    ema_count: Tensor
    """(V,) float32: smoothed moving average of how many vectors a pass gives each code."""
    ema_weight: Tensor
    """(V, D) float32: moving sum of these vectors; a code is ema_weight / ema_count."""
    training_passes: Tensor
    """Scalar int64: passes in training mode, which time the restarts."""
    restart_seed = 0
    """Seed of the restarts' draws, set by whoever trains."""

    def __init__(self, config: WhisperVQConfig, only_to_quantizer: bool = False) -> None:
        super().__init__()
        self.config = config
        self.only_to_quantizer = only_to_quantizer or config.quantize_encoder_only
        self.checkpoint_activations = False
        width, causal = config.d_model, config.encoder_causal_convolution
        self.conv1 = Convolution(config.num_mel_bins, width, 1, causal)
        self.conv2 = Convolution(width, width, 2, causal)
        self.embed_positions = nn.Embedding(config.max_source_positions, width)
        self.embed_positions.requires_grad_(False)
        depth = config.encoder_layers
        if self.only_to_quantizer:
            assert config.quantize_position is not None
            depth = config.quantize_position
        self.layers = nn.ModuleList(
            EncoderBlock(
                width,
                config.encoder_attention_heads,
                config.encoder_ffn_dim,
                config.dropout,
                config.attention_dropout,
                config.activation_dropout,
            )
            for _ in range(depth)
        )
        if config.quantize_vocab_size is not None:
            self.codebook = nn.Embedding(config.quantize_vocab_size, width)
            self.codebook.requires_grad_(False)
            self.register_buffer("ema_count", torch.ones(config.quantize_vocab_size))
            self.register_buffer("ema_weight", self.codebook.weight.detach().clone())
            self.register_buffer("training_passes", torch.zeros((), dtype=torch.int64))
        if not self.only_to_quantizer:
            if config.is_quantised:
                self.embed_positions2 = nn.Embedding(config.max_source_positions // config.kernel, width)
            self.layer_norm = nn.LayerNorm(width)

    def forward(self, features: Tensor, frame_mask: Tensor) -> tuple[Tensor, Tensor, Quantised | None]:
        """features: (B, M, F) float32; frame_mask: (B, F), true where a frame is speech.

        Returns final states (B, K, D), valid (B, K) bool, and what the bottleneck did (None in a plain Whisper).
        """
        hidden, valid = self.before(features, frame_mask)
        if not self.config.is_quantised:
            return self.after(hidden, valid), valid, None
        quantised = self.quantise(hidden, valid)
        return self.after(quantised.hidden, valid), valid, quantised

    def before(self, features: Tensor, frame_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Everything up to the quantiser: states (B, K, D) and valid (B, K) bool."""
        hidden, valid = self.front(features, frame_mask)
        return self.middle(hidden, valid), valid

    def front(self, features: Tensor, frame_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Convolutions, layers up to pooling and pooling: states (B, K, D) and valid (B, K) bool."""
        config = self.config
        frames = functional.gelu(self.conv2(functional.gelu(self.conv1(features))))
        valid = frame_mask.bool()[:, ::2]
        length = frames.shape[2]
        if length > config.max_source_positions:
            raise ValueError(
                f"features: got {features.shape[2]} mel frames, wanted at most {2 * config.max_source_positions}"
            )
        hidden = frames.transpose(1, 2) + self.embed_positions.weight[:length]
        hidden = functional.dropout(hidden, config.dropout, self.training)
        if not config.is_pooled:
            return hidden, valid
        return pool(self._run(hidden, valid, 0, self._front_depth), valid, config.kernel)

    def middle(self, hidden: Tensor, valid: Tensor) -> Tensor:
        """The layers between pooling and the quantiser, at the rate of the tokens: (B, K, D) -> (B, K, D)."""
        depth = self.config.quantize_position if self.config.is_quantised else 0
        assert depth is not None
        return self._run(hidden, valid, self._front_depth, depth)

    @property
    def _front_depth(self) -> int:
        return (self.config.pooling_position or 0) if self.config.is_pooled else 0

    def front_parameters(self) -> Iterator[nn.Parameter]:
        """What `front` computes with."""
        for part in (self.conv1, self.conv2, *self.layers[: self._front_depth]):
            yield from part.parameters()

    def quantise(self, hidden: Tensor, valid: Tensor) -> Quantised:
        """hidden: (B, K, D), valid: (B, K) bool. In training mode moves the codebook after the codes were taken."""
        codebook = self.codebook.weight
        ids = nearest_codes(hidden.flatten(0, 1), codebook).view(hidden.shape[:2])
        codes = codebook[ids].to(hidden.dtype)
        loss = commitment(hidden, codes, valid)
        if not self.training:
            return Quantised(codes, ids, loss, codes.new_empty(0), 0)
        straight = hidden + (codes - hidden).detach()
        counts, restarted = self._learn(hidden.detach()[valid], ids[valid])
        return Quantised(straight, ids, loss, counts, restarted)

    def _learn(self, vectors: Tensor, ids: Tensor) -> tuple[Tensor, int]:
        config, codebook = self.config, self.codebook.weight.data
        if config.quantize_ema_decay is None:
            return vectors.new_empty(0), 0
        counts = ema_update(codebook, self.ema_count, self.ema_weight, vectors, ids, config.quantize_ema_decay)
        self.training_passes += 1
        interval = config.quantize_restart_interval
        if interval is None or int(self.training_passes) % interval:
            return counts, 0
        threshold = config.quantize_ema_decay**interval
        seed = int(self.training_passes) + 1_000_003 * self.restart_seed
        return counts, restart_dead_codes(codebook, self.ema_count, self.ema_weight, vectors, threshold, seed)

    def after(self, hidden: Tensor, valid: Tensor) -> Tensor:
        """Second position table, the remaining layers and the last norm: (B, K, D) -> (B, K, D)."""
        if self.only_to_quantizer:
            raise ValueError("speech tokenizer: loaded up to the quantiser only, wanted the layers behind it")
        start = 0
        if self.config.is_quantised:
            start = self.config.quantize_position or 0
            hidden = hidden + self.embed_positions2.weight[: hidden.shape[1]]
        return self.layer_norm(self._run(hidden, valid, start, len(self.layers)))

    def _run(self, hidden: Tensor, valid: Tensor, start: int, stop: int) -> Tensor:
        """Layers start..stop-1 at the rate of `hidden`: 50 a second before pooling, the tokens' rate behind it."""
        if start >= stop:
            return hidden
        config = self.config
        pooled = config.is_pooled and start >= (config.pooling_position or 0)
        block = config.quantize_causal_block_size
        if block is not None and pooled:
            block //= config.kernel
        before_quantizer = config.is_quantised and start < (config.quantize_position or 0)
        causal = config.encoder_causal_attention or (config.quantize_causal_encoder and before_quantizer)
        mask = attention_mask(valid, block, causal)
        for layer in self.layers[start:stop]:
            if self.checkpoint_activations and self.training and torch.is_grad_enabled():
                hidden = checkpoint(layer, hidden, mask, use_reentrant=False)
            else:
                hidden = layer(hidden, mask)
        return hidden


def pool(hidden: Tensor, valid: Tensor, kernel: int) -> tuple[Tensor, Tensor]:
    """Average of every `kernel` frames, zero-padded at the end; a token is valid when its first frame is."""
    missing = -hidden.shape[1] % kernel
    hidden = functional.pad(hidden, (0, 0, 0, missing))
    return functional.avg_pool1d(hidden.transpose(1, 2), kernel).transpose(1, 2), valid[:, ::kernel]


class Decoder(nn.Module):
    """Whisper's text decoder, which attends to the encoder's valid states only; its output projection is tied."""

    def __init__(self, config: WhisperVQConfig) -> None:
        super().__init__()
        width = config.d_model
        self.dropout = config.dropout
        self.embed_tokens = nn.Embedding(config.vocab_size, width)
        self.embed_positions = nn.Embedding(config.max_target_positions, width)
        self.layers = nn.ModuleList(
            DecoderBlock(
                width,
                config.decoder_attention_heads,
                config.decoder_ffn_dim,
                config.dropout,
                config.attention_dropout,
                config.activation_dropout,
            )
            for _ in range(config.decoder_layers)
        )
        self.layer_norm = nn.LayerNorm(width)

    @property
    def _blocks(self) -> Iterator[DecoderBlock]:
        return (layer for layer in self.layers if isinstance(layer, DecoderBlock))

    def start(self, states: Tensor) -> list[Cache]:
        """A cache a layer for final encoder states (B, K, D)."""
        return [Cache(layer.encoder_attn.project(states)) for layer in self._blocks]

    def forward(self, ids: Tensor, caches: list[Cache], valid: Tensor) -> Tensor:
        """The next L text tokens: ids (B, L) int64, valid (B, K) bool -> logits (B, L, vocabulary)."""
        return self.project(self.hidden(ids, caches, valid))

    def project(self, hidden: Tensor) -> Tensor:
        """Last states (..., D) -> logits (..., vocabulary)."""
        return functional.linear(hidden, self.embed_tokens.weight)

    def hidden(self, ids: Tensor, caches: list[Cache], valid: Tensor) -> Tensor:
        """The states that `project` takes: (B, L, D)."""
        past = 0 if caches[0].own is None else caches[0].own[0].shape[2]
        positions = torch.arange(past, past + ids.shape[1], device=ids.device)
        if int(positions[-1]) >= self.embed_positions.num_embeddings:
            raise ValueError(
                f"text: got {int(positions[-1]) + 1} tokens, wanted at most {len(self.embed_positions.weight)}"
            )
        causal = torch.arange(past + ids.shape[1], device=ids.device)[None, :] <= positions[:, None]
        valid = valid.clone()
        valid[:, 0] = True
        states = self.embed_tokens(ids) + self.embed_positions(positions)
        states = functional.dropout(states, self.dropout, self.training)
        for layer, cache in zip(self._blocks, caches, strict=True):
            states = layer.decode(states, cache, causal, valid[:, None, None, :])
        return self.layer_norm(states)


class WhisperVQ(nn.Module):
    """Encoder and decoder under the published names `model.encoder.*` and `model.decoder.*`."""

    def __init__(self, config: WhisperVQConfig, encoder_only: bool = False) -> None:
        super().__init__()
        self.config = config
        parts: dict[str, nn.Module] = {"encoder": Encoder(config, only_to_quantizer=encoder_only)}
        if not encoder_only and not config.quantize_encoder_only:
            parts["decoder"] = Decoder(config)
        self.model = nn.ModuleDict(parts)

    @property
    def encoder(self) -> Encoder:
        """Speech to tokens to states."""
        encoder = self.model["encoder"]
        assert isinstance(encoder, Encoder)
        return encoder

    @property
    def decoder(self) -> Decoder:
        """States to text. Raises ValueError in an encoder-only load."""
        if "decoder" not in self.model:
            raise ValueError("speech tokenizer: loaded without its decoder, which transcribing needs")
        decoder = self.model["decoder"]
        assert isinstance(decoder, Decoder)
        return decoder

    def logits(self, states: Tensor, valid: Tensor, decoder_input_ids: Tensor) -> Tensor:
        """All text positions at once: states (B, K, D), valid (B, K), ids (B, L) -> (B, L, vocabulary)."""
        return self.decoder(decoder_input_ids, self.decoder.start(states), valid)

"""The public door: speech to tokens and tokens to text, from a folder in the published layout.

    tokenizer = load("data/speech_tokenizer/model")
    [tokens] = tokenizer.encode([wave])          # 12.5 tokens a second
    [text] = tokenizer.transcribe([tokens])

Works without mlflow, dvc, prefect and great_expectations.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

from components.shared.audio import WHISPER_RATE_HZ
from components.shared.features import log_mel, num_frames
from components.shared.packed_linear import pack_linears
from components.speech_tokenizer import checkpoint
from components.speech_tokenizer.quantizer import NearestCode
from components.speech_tokenizer.transcripts import Transcripts, decode_greedily, detect_languages
from components.speech_tokenizer.whisper_config import FRAMES_PER_S
from components.speech_tokenizer.whisper_vq import WhisperVQ
from components.speech_tokenizer.windows import MEL_PER_HIDDEN, Window, windows

if TYPE_CHECKING:
    from components.speech_tokenizer.stream import EncodeStream

BATCH_S = 120.0
"""Seconds of speech, padding included, that are encoded or transcribed together."""


@dataclass
class _Piece:
    clip: int
    window: Window
    features: Tensor
    """(mels, frames) float32 of the window."""
    silence: Tensor
    """(1, 1) float32: what silence looks like beside this clip."""

    def padded(self, num_frames: int) -> Tensor:
        """Features filled up with silence: (mels, num_frames)."""
        mels, frames = self.features.shape
        return torch.cat([self.features, self.silence.expand(mels, num_frames - frames)], dim=1)


class SpeechTokenizer:
    """A trained WhisperVQ in evaluation mode. Made by `load`."""

    def __init__(self, network: WhisperVQ, folder: Path | None, device: torch.device, dtype: torch.dtype) -> None:
        if network.config.quantize_vocab_size is None:
            raise ValueError(
                f"{folder}: quantize_vocab_size: got null, wanted a number of codes; is it a plain Whisper?"
            )
        # Searched in float32, whatever the network's dtype.
        self._nearest = NearestCode(network.encoder.codebook.weight.to(device))
        self.network = network.eval().to(device=device, dtype=dtype)
        for part in (self.network, self._nearest):
            pack_linears(part)
        self.folder, self.device, self.dtype = folder, device, dtype
        self.config = network.config
        self.num_codes: int = network.config.quantize_vocab_size
        self.tokens_per_s = network.config.tokens_per_s
        self.sample_rate_hz = WHISPER_RATE_HZ
        self._transcripts: Transcripts | None = None

    @torch.no_grad()
    def encode_features(self, input_features: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        """input_features: (B, mels, frames) float32 log-mel, 100 frames a second; attention_mask: (B, frames).

        Returns token_ids (B, tokens) int64 and valid (B, tokens) bool. Raises ValueError when the shapes do not fit.
        """
        mels = self.config.num_mel_bins
        if input_features.dim() != 3 or input_features.shape[1] != mels:
            raise ValueError(f"input_features: got shape {tuple(input_features.shape)}, wanted (batch, {mels}, frames)")
        if attention_mask.shape != (input_features.shape[0], input_features.shape[2]):
            wanted = (input_features.shape[0], input_features.shape[2])
            raise ValueError(f"attention_mask: got shape {tuple(attention_mask.shape)}, wanted {wanted}")
        features = input_features.to(self.device, self.dtype)
        hidden, valid = self.network.encoder.before(features, attention_mask.to(self.device))
        return self._nearest(hidden.flatten(0, 1)).view(hidden.shape[:2]), valid

    def encode(self, waves: list[Tensor], sample_rate_hz: int = WHISPER_RATE_HZ) -> list[Tensor]:
        """Speech tokens of clips of any length: waves (samples,) float32, -1..1, 16 kHz -> (tokens,) int64 on the CPU.

        Clips are sorted by length and batched by their total duration, so that little padding is computed. A clip
        beyond the position table is encoded in windows (windows.py). Raises ValueError for a wave that is empty, holds
        NaN or is not one-dimensional floating point, and for another rate than 16 kHz.
        """
        check_rate(sample_rate_hz)
        for number, wave in enumerate(waves):
            check_wave(wave, f"wave {number}")
        found: list[list[tuple[int, Tensor]]] = [[] for _ in waves]
        for clips in batches([len(wave) / WHISPER_RATE_HZ for wave in waves]):
            pieces = self._pieces(clips, waves)
            for places in batches([piece.features.shape[1] / FRAMES_PER_S for piece in pieces]):
                batch = [pieces[place] for place in places]
                for piece, tokens in zip(batch, self._encode_pieces(batch), strict=True):
                    found[piece.clip].append((piece.window.start, tokens))
        return [torch.cat([tokens for _, tokens in sorted(parts, key=lambda part: part[0])]) for parts in found]

    def transcribe(self, token_ids: list[Tensor], languages: list[str] | None = None) -> list[str]:
        """What speech tokens say, decoded greedily: token_ids (tokens,) int64 each -> texts.

        languages: ISO 639-1 of each clip; None: the likeliest of the languages it was trained on. A clip beyond the
        position table is transcribed in pieces. Raises ValueError for a code outside 0..num_codes-1.
        """
        for number, tokens in enumerate(token_ids):
            if tokens.dim() != 1 or (len(tokens) and not 0 <= int(tokens.min()) <= int(tokens.max()) < self.num_codes):
                raise ValueError(f"tokens {number}: got {tokens.tolist()[:4]}..., wanted codes 0..{self.num_codes - 1}")
        rows = self.config.max_source_positions // self.config.kernel
        cuts = [
            (clip, tokens[at : at + rows])
            for clip, tokens in enumerate(token_ids)
            for at in range(0, len(tokens), rows)
        ]
        said: list[list[str]] = [[] for _ in token_ids]
        texts: dict[int, str] = {}
        for places in batches([len(tokens) / self.tokens_per_s for _, tokens in cuts]):
            known = [languages[cuts[place][0]] for place in places] if languages is not None else None
            texts |= zip(places, self._transcribe([cuts[place][1] for place in places], known), strict=True)
        for place, (clip, _) in enumerate(cuts):
            said[clip].append(texts[place])
        return [" ".join(parts) for parts in said]

    def stream(self, sample_rate_hz: int = WHISPER_RATE_HZ) -> EncodeStream:
        """A stream that gives a block's tokens as soon as its samples are there.

        Raises ValueError when the configuration looks ahead further than its block (not block-causal, or convolutions
        that are not causal), and for another rate than 16 kHz.
        """
        from components.speech_tokenizer.stream import EncodeStream

        check_rate(sample_rate_hz)
        return EncodeStream(self)

    @property
    def transcripts(self) -> Transcripts:
        """The text tokenizer of the folder."""
        if self._transcripts is None:
            if self.folder is None:
                raise ValueError("speech tokenizer: made without a folder, so that it has no text tokenizer")
            self._transcripts = Transcripts.read(self.folder / checkpoint.TOKENIZER)
        return self._transcripts

    @torch.no_grad()
    def _transcribe(self, token_ids: list[Tensor], languages: list[str] | None) -> list[str]:
        transcripts, decoder = self.transcripts, self.network.decoder
        longest = max(len(tokens) for tokens in token_ids)
        padded = torch.stack([functional.pad(tokens.long(), (0, longest - len(tokens))) for tokens in token_ids])
        valid = torch.arange(longest)[None, :] < torch.tensor([len(tokens) for tokens in token_ids])[:, None]
        valid = valid.to(self.device)
        states = self.network.encoder.after(self.network.encoder.codebook(padded.to(self.device)), valid)
        if languages is None and transcripts.languages:
            wanted = self.config.languages or sorted(transcripts.languages)
            ids = {name: transcripts.languages[name] for name in wanted}
            languages = detect_languages(decoder, states, valid, transcripts.start, ids)
        prompts = [transcripts.prompt(language) for language in languages or [""] * len(token_ids)]
        found = decode_greedily(decoder, states, valid, prompts, self.config, transcripts.end)
        return [transcripts.text(ids) for ids in found]

    def _pieces(self, clips: list[int], waves: list[Tensor]) -> list[_Piece]:
        """Features of some clips, cut into windows of whole tokens."""
        config = self.config
        per_token = MEL_PER_HIDDEN * config.kernel
        features, _ = log_mel(
            [waves[clip] for clip in clips],
            config.num_mel_bins,
            floor=config.feature_floor if config.is_fixed else None,
            multiple=per_token,
            silence=2 * per_token,
            device=self.device,
        )
        pieces = []
        for clip, frames in zip(clips, features, strict=True):
            num_hidden = -(-num_frames(len(waves[clip])) // MEL_PER_HIDDEN)
            for window in windows(num_hidden, config):
                stop = -(-window.stop // config.kernel) * per_token + self._lookahead
                pieces.append(_Piece(clip, window, frames[:, window.start * MEL_PER_HIDDEN : stop], frames[:1, -1:]))
        return pieces

    @property
    def _lookahead(self) -> int:
        """Mel frames behind a window that its last token's convolutions see: none when they are causal."""
        return 0 if self.config.encoder_causal_convolution else MEL_PER_HIDDEN * self.config.kernel

    def _encode_pieces(self, pieces: list[_Piece]) -> list[Tensor]:
        """The kept tokens of each piece of one batch, (tokens,) int64 on the CPU."""
        longest = max(piece.features.shape[1] for piece in pieces)
        features = torch.stack([piece.padded(longest) for piece in pieces])
        hidden = torch.tensor([piece.window.stop - piece.window.start for piece in pieces])
        mask = torch.arange(longest)[None, :] < MEL_PER_HIDDEN * hidden[:, None]
        ids, _ = self.encode_features(features, mask)
        kernel = self.config.kernel
        return [
            row[
                (piece.window.keep - piece.window.start) // kernel : -(
                    -(piece.window.stop - piece.window.start) // kernel
                )
            ]
            for row, piece in zip(ids.cpu(), pieces, strict=True)
        ]


def load(
    path: Path | str,
    device: str | torch.device = "cpu",
    *,
    dtype: torch.dtype = torch.float32,
    encoder_only: bool = False,
) -> SpeechTokenizer:
    """The speech tokenizer of a folder.

    encoder_only: without the layers behind the quantiser and the decoder, which encoding does not need. Raises
    ValueError when the folder is not a whole WhisperVQ.
    """
    folder = Path(path)
    return SpeechTokenizer(checkpoint.read(folder, encoder_only=encoder_only), folder, torch.device(device), dtype)


def check_rate(sample_rate_hz: int) -> None:
    """Raise ValueError unless the rate is the tokenizer's."""
    if sample_rate_hz != WHISPER_RATE_HZ:
        raise ValueError(
            f"sample_rate_hz: got {sample_rate_hz}, wanted {WHISPER_RATE_HZ}; audio.resample brings a wave to it"
        )


def check_wave(wave: Tensor, name: str) -> None:
    """Raise ValueError unless the wave is (samples,) floating point, finite and not empty."""
    if wave.dim() != 1 or not wave.is_floating_point():
        raise ValueError(f"{name}: got {wave.dtype} of shape {tuple(wave.shape)}, wanted (samples,) floating point")
    if len(wave) == 0:
        raise ValueError(f"{name}: no samples")
    if not bool(torch.isfinite(wave).all()):
        raise ValueError(f"{name}: holds NaN or infinite samples")


def batches(durations_s: list[float]) -> Iterator[list[int]]:
    """Places by falling duration in batches of at most BATCH_S seconds with padding; a longer one goes alone."""
    batch: list[int] = []
    for place in sorted(range(len(durations_s)), key=lambda place: -durations_s[place]):
        if batch and (len(batch) + 1) * durations_s[batch[0]] > BATCH_S:
            yield batch
            batch = []
        batch.append(place)
    if batch:
        yield batch

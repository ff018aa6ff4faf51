"""Streaming: the same tokens as offline, in time, at a bounded cost; and clips beyond the position table."""

from __future__ import annotations

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from small_tokenizer import noise, small_tokenizer
from torch import Tensor

from components.shared.features import RANGE, log_mel
from components.speech_tokenizer.model import SpeechTokenizer
from components.speech_tokenizer.windows import windows

CHUNKS = st.lists(st.integers(700, 40_000), min_size=1, max_size=12)
BLOCK, HALF_WINDOW, HOP = 40, 200, 160
"""Mel frames of a block of the small tokenizer; samples of half an analysis window and between two frames."""


def stream_all(tokenizer: SpeechTokenizer, wave: Tensor, chunks: list[int]) -> Tensor:
    """All tokens of a stream; each block's must have left `push` once its last frame was known."""
    stream, tokens, at = tokenizer.stream(), [], 0
    while at < len(wave):
        size = chunks[len(tokens) % len(chunks)]
        tokens.append(stream.push(wave[at : at + size]))
        at = min(at + size, len(wave))
        known = (at - HALF_WINDOW) // HOP + 1 if at > HALF_WINDOW else 0
        assert sum(map(len, tokens)) >= 5 * (known // BLOCK)
    last = stream.finish()
    assert len(last) <= 5
    return torch.cat([*tokens, last])


@settings(max_examples=25, deadline=None)
@given(seconds=st.floats(0.01, 3.0) | st.floats(1.0, 120.0), seed=st.integers(0, 1000), chunks=CHUNKS)
@example(seconds=120.0, seed=1, chunks=[1_600])
@example(seconds=2.0, seed=2, chunks=[6_400])
@example(seconds=2.4, seed=3, chunks=[32_000])
def test_a_stream_gives_the_offline_tokens_whatever_the_chunks(seconds: float, seed: int, chunks: list[int]) -> None:
    """The position table holds 2 s, blocks 0.4 s; the loudest second comes last."""
    tokenizer = small_tokenizer()
    wave = noise(seconds, seed, loud_at_the_end=True)
    assert torch.equal(stream_all(tokenizer, wave, chunks), tokenizer.encode([wave])[0])


@settings(max_examples=10, deadline=None)
@given(seconds=st.floats(1.0, 9.0), seed=st.integers(0, 1000), chunks=CHUNKS)
def test_with_clipping_a_stream_equals_offline_when_the_loudest_frame_comes_first(
    seconds: float, seed: int, chunks: list[int]
) -> None:
    tokenizer = small_tokenizer(feature_normalization="clip", feature_floor=None)
    wave = noise(seconds, seed, loud_at_the_end=True).flip(0)
    wave[:800] = 1.0 - 2.0 * (torch.arange(800) // 8 % 2)
    assert torch.equal(stream_all(tokenizer, wave, chunks), tokenizer.encode([wave])[0])


def test_with_clipping_a_block_is_cut_off_by_the_maximum_so_far(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = small_tokenizer(feature_normalization="clip", feature_floor=None)
    wave = torch.cat([1e-3 * noise(0.8, 1), noise(0.8, 2, loud_at_the_end=True)])
    seen: list[Tensor] = []
    encode = tokenizer.encode_features

    def watched(features: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        seen.append(features)
        return encode(features, mask)

    monkeypatch.setattr(tokenizer, "encode_features", watched)
    stream_all(tokenizer, wave, [3_200])
    lows = [float(seen[place].min()) for place in (0, 3)]
    highs = [float(seen[place].max()) for place in (0, 3)]
    assert highs[1] > highs[0] + 0.5
    for low, high in zip(lows, highs, strict=True):
        assert low >= high - RANGE / 4 - 1e-5
    whole, _ = log_mel([wave], 16, floor=None, multiple=8)
    assert float(whole.min()) > lows[0] + 0.1


def test_the_cost_of_a_block_is_bounded_by_the_position_table(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = small_tokenizer()
    frames: list[int] = []
    encode = tokenizer.encode_features

    def watched(features: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        frames.append(features.shape[2])
        return encode(features, mask)

    monkeypatch.setattr(tokenizer, "encode_features", watched)
    stream_all(tokenizer, noise(30.0, 4), [8_000])
    assert len(frames) == 75 and max(frames) <= 2 * tokenizer.config.max_source_positions


def test_beyond_the_position_table_windows_advance_by_whole_blocks_and_keep_each_frame_once() -> None:
    config = small_tokenizer().config
    for num_hidden in (1, 99, 100, 101, 120, 121, 400, 1_003):
        cut = windows(num_hidden, config)
        assert all(window.stop - window.start <= config.max_source_positions for window in cut)
        assert [window.keep for window in cut] == [0, *(window.stop for window in cut[:-1])]
        assert cut[-1].stop == num_hidden
        assert all(window.start % 20 == 0 and window.keep % 20 == 0 for window in cut)


def test_what_cannot_stream_says_so() -> None:
    for changes in ({"encoder_causal_convolution": False}, {"quantize_causal_block_size": None}):
        with pytest.raises(ValueError, match="looks ahead"):
            small_tokenizer(**changes).stream()
    stream = small_tokenizer().stream()
    with pytest.raises(ValueError, match="no samples"):
        stream.finish()
    with pytest.raises(ValueError, match="NaN"):
        stream.push(torch.full((10,), float("nan")))
    with pytest.raises(ValueError, match="shape"):
        stream.push(torch.zeros(2, 10))
    stream.push(torch.zeros(10))
    assert len(stream.finish()) == 1
    with pytest.raises(ValueError, match="after finish"):
        stream.push(torch.zeros(10))

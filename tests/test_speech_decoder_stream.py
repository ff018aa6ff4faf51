"""Decoding block by block: one procedure for decode and stream, no clicks, a cost that does not grow."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor

from components.speech_decoder.flow import MelFlow, frames_of
from components.speech_decoder.griffin_lim import StreamingGriffinLim, griffin_lim
from components.speech_decoder.mel import HOP, log_mel
from components.speech_decoder.model import SpeechDecoder
from components.speech_decoder.noise import frame_noise, source_noise
from components.speech_decoder.start import begin_straight
from components.speech_decoder.unet import UNet
from components.speech_decoder.vocoder import StreamingHift, reach, whole_wave
from tests.tones import GRIFFIN_LIM, SMALL_HIFT, small_decoder, small_vocoder, some_codes, tone

BLOCK = 10
ROUNDING = 1e-3
"""Of float32, over the layers and steps of the flow, for log mels up to 14; another context is 10 times as far."""


def streamed(decoder: SpeechDecoder, codes: Tensor, cuts: tuple[int, ...] | range) -> Tensor:
    """The wave of a stream whose pushes are cut there."""
    stream, edges = decoder.stream(), [0, *cuts, len(codes)]
    return torch.cat([*(stream.push(codes[a:b]) for a, b in pairwise(edges)), stream.finish()])


def pushed(vocoder, mel: Tensor, cuts: tuple[int, ...]) -> list[Tensor]:
    """The pieces of wave that a vocoder gives for a mel cut there."""
    pieces = [vocoder.push(mel[:, a:b]) for a, b in pairwise([0, *cuts, mel.shape[1]])]
    return [*pieces, vocoder.finish()]


def worst_joint(wave: Tensor, joints: list[int]) -> float:
    """Spectral flux above 5.5 kHz, where a click is and the tones are not, at the worst joint (samples).

    As a multiple of the 98th percentile in the 0.37 s around it.
    """
    spectrum = torch.stft(wave, 256, 64, window=torch.hann_window(256), return_complex=True).abs()[64:]
    flux = spectrum.diff(dim=1).clamp(min=0).sum(dim=0)
    places = [joint // 64 for joint in joints]
    return max(float(flux[at - 2 : at + 2].max() / flux[max(0, at - 64) : at + 64].quantile(0.98)) for at in places)


# One procedure


@pytest.mark.parametrize("hift", [False, True], ids=["griffin_lim", "hift"])
@pytest.mark.parametrize("causal_blocks", [0, 2], ids=["published", "causal"])
def test_a_stream_gives_the_wave_of_decode_however_its_tokens_arrive(hift, causal_blocks):
    decoder, codes = small_decoder(hift=hift, causal_blocks=causal_blocks), some_codes(34)
    whole, mel = decoder.decode_with_mel(codes)
    assert whole.shape == (frames_of(34, 12.5) * HOP,) and mel.shape == (80, frames_of(34, 12.5))
    assert whole.dtype == torch.float32 and bool(whole.isfinite().all())
    for cuts in ((), range(1, 34), (9, 10, 11, 33), (10, 20, 30)):
        assert torch.equal(streamed(decoder, codes, cuts), whole)


def test_a_block_hears_of_its_history_alone():
    decoder, codes = small_decoder(history_blocks=1), some_codes(40)
    other = codes.clone()
    other[:10] = (other[:10] + 1) % 24
    one, two = decoder.block_mel(codes), decoder.block_mel(other)
    second, third = frames_of(10, 12.5), frames_of(20, 12.5)
    assert not torch.allclose(one[:, second:third], two[:, second:third], atol=1e-2)
    alone = small_decoder(history_blocks=0)
    one, two = alone.block_mel(codes), alone.block_mel(other)
    assert torch.equal(one[:, second:], two[:, second:])
    assert not torch.equal(one[:, :second], two[:, :second])


def test_noise_is_a_function_of_its_place():
    whole = frame_noise(0, 300)
    assert abs(float(whole.mean())) < 0.03 and abs(float(whole.std()) - 1) < 0.03
    assert torch.equal(torch.cat([frame_noise(0, 61), frame_noise(61, 239)], dim=1), whole)
    rows = source_noise(0, 70, 3)
    assert rows.shape == (3, 70 * HOP)
    assert torch.equal(torch.cat([source_noise(0, 5, 3), source_noise(5, 65, 3)], dim=1), rows)
    assert not torch.equal(rows[0, :80], whole[:, 0])


def test_the_single_pass_is_a_mode_of_its_own_and_its_distance_is_told():
    decoder, codes = small_decoder(), some_codes(25)
    apart = (decoder.mel(codes) - decoder.block_mel(codes)).abs().mean()
    assert decoder.mode_distance(codes) == pytest.approx(float(apart)) and apart > 0.01
    assert decoder.mode_distance(codes[:BLOCK]) == 0.0  # one block: the same pass
    assert decoder.decode_whole(codes).shape == decoder.decode(codes).shape


def test_a_stream_says_when_it_is_misused():
    decoder = small_decoder()
    with pytest.raises(ValueError, match="finished without a token"):
        decoder.stream().finish()
    stream = decoder.stream()
    assert len(stream.push([])) == 0
    with pytest.raises(ValueError, match=r"tokens: got 24, wanted 0\.\.23, the decoder's vocabulary"):
        stream.push([24])
    stream.push([1])
    assert len(stream.finish()) == frames_of(1, 12.5) * HOP
    with pytest.raises(ValueError, match="tokens after finish"):
        stream.push([1])


# Cost


@pytest.mark.parametrize("hift", [False, True], ids=["griffin_lim", "hift"])
@pytest.mark.parametrize(("causal_blocks", "most"), [(0, 3 * BLOCK), (2, BLOCK)], ids=["published", "causal"])
def test_the_cost_of_a_block_does_not_grow(hift, causal_blocks, most):
    decoder = small_decoder(hift=hift, causal_blocks=causal_blocks)
    flow, vocoder = decoder.flow, decoder.saved.vocoder
    frames: list[int] = []
    decoded: list[int] = []
    flow.velocity_network.register_forward_hook(lambda _, given, made: frames.append(made.shape[-1]))
    if vocoder is not None:
        vocoder.conv_pre.register_forward_hook(lambda _, given, made: decoded.append(made.shape[-1]))
    stream, calls, lengths = decoder.stream(), [], []
    for block in some_codes(7 * BLOCK).split(BLOCK):
        before = len(frames)
        lengths.append(len(stream.push(block)))
        calls.append(len(frames) - before)
    assert calls == [decoder.saved.sampler.num_steps] * 7
    assert max(frames) <= frames_of(most, 12.5) + 1
    assert min(lengths) > 0  # sound from the first block on
    if hift:
        context = reach(SMALL_HIFT)
        assert len(decoded) == 7
        assert max(decoded) <= frames_of(BLOCK, 12.5) + 1 + context.before + context.after


def test_what_a_causal_stream_remembers_does_not_grow():
    decoder = small_decoder(causal_blocks=3)
    stream, kept = decoder.stream(), []
    for block in some_codes(6 * BLOCK).split(BLOCK):
        stream.push(block)
        blocks = stream._mels._blocks
        kept.append(sum(past.num_kept for past in (blocks._content, *blocks._steps)))
    assert kept[0] < kept[1] < kept[2]
    assert max(kept[2:]) < 1.02 * min(kept[2:])  # blocks have 68 or 69 frames


# Joints


def test_streamed_griffin_lim_loses_nothing_and_keeps_the_mel():
    mel = log_mel(torch.from_numpy(tone(1.6)))
    wave = torch.cat(pushed(StreamingGriffinLim(GRIFFIN_LIM), mel, (1, 40, 41, 90)))
    assert wave.shape == (mel.shape[1] * HOP,)
    strong = mel > -6
    assert float((log_mel(wave) - mel)[strong].abs().mean()) < 0.35


def test_streamed_griffin_lim_does_not_click_where_a_hard_cut_does():
    mel = log_mel(torch.from_numpy(np.concatenate([tone(1.2, 140.0), tone(1.3, 190.0)])))
    cuts = tuple(frames_of(n, 12.5) for n in range(BLOCK, 31, BLOCK))
    pieces = pushed(StreamingGriffinLim(GRIFFIN_LIM), mel, cuts)
    joints = np.cumsum([len(piece) for piece in pieces])[:-1].tolist()
    hard = [griffin_lim(mel[:, a:b], GRIFFIN_LIM) for a, b in pairwise([0, *cuts, mel.shape[1]])]
    assert worst_joint(torch.cat(pieces), joints) < 1.5
    assert worst_joint(torch.cat(hard), [cut * HOP for cut in cuts]) > 10


# HiFT


@pytest.mark.parametrize("cuts", [(), (1, 2, 3), (30, 31, 95), (69, 138), tuple(range(7, 150, 7))])
def test_streamed_hift_gives_the_wave_of_the_whole_mel(cuts):
    network, mel = small_vocoder(), log_mel(torch.from_numpy(tone(1.75)))
    whole, wave = whole_wave(network, mel), torch.cat(pushed(StreamingHift(network), mel, cuts))
    assert wave.shape == (mel.shape[1] * HOP,) and float(wave.std()) > 1e-3
    assert torch.allclose(wave, whole, atol=1e-4, rtol=0)
    hard = torch.cat([whole_wave(network, mel[:, a:b]) for a, b in pairwise([0, *cuts, mel.shape[1]])])
    assert torch.allclose(hard, whole, atol=1e-4, rtol=0) == (not cuts)  # context is what makes them equal


def test_streamed_hift_waits_for_no_more_than_its_latency():
    stream, mel = StreamingHift(small_vocoder()), log_mel(torch.from_numpy(tone(1.0)))
    given = [len(stream.push(mel[:, frame : frame + 1])) for frame in range(mel.shape[1])]
    assert given == [0] * stream.latency + [HOP] * (mel.shape[1] - stream.latency)
    assert len(stream.finish()) == stream.latency * HOP
    assert len(StreamingHift(small_vocoder()).finish()) == 0


def test_hifts_reach_is_what_a_changed_frame_touches():
    network, context, frames, place = small_vocoder(), reach(SMALL_HIFT), 80, 40
    torch.manual_seed(0)
    mel, source = torch.randn(1, 80, frames), 0.1 * torch.randn(1, 1, frames * HOP)
    touched = torch.zeros(frames, dtype=torch.bool)
    with torch.no_grad():
        still = network.decode(mel, source)
        for name in ("mel", "source"):
            other = {"mel": mel.clone(), "source": source.clone()}
            width = 1 if name == "mel" else HOP
            other[name][..., place * width : (place + 1) * width] += 3
            changed = (network.decode(other["mel"], other["source"]) - still).abs()
            touched |= changed.view(frames, HOP).amax(dim=1) > 0
    first, last = touched.nonzero()[[0, -1], 0].tolist()
    assert place - context.after <= first <= place - context.after + 1  # the bound is met but for a frame
    assert place + context.before - 1 <= last <= place + context.before


def test_hifts_source_goes_on_where_it_stopped():
    network = small_vocoder()
    pitch = torch.full((1, 1, 20 * HOP), 143.7)
    noise = source_noise(0, 20, 9)[None]
    start = network.first_turns(1, torch.Generator().manual_seed(0))
    with torch.no_grad():
        whole, _ = network.excite(pitch, start, noise)
        first, turns = network.excite(pitch[..., : 7 * HOP], start, noise[..., : 7 * HOP])
        second, _ = network.excite(pitch[..., 7 * HOP :], turns, noise[..., 7 * HOP :])
    assert torch.allclose(torch.cat([first, second], dim=-1), whole, atol=1e-5)


# The causal variant


@pytest.mark.parametrize("causal_blocks", [1, 2, 4])
def test_a_causal_prefix_decodes_as_it_does_within_a_longer_decode(causal_blocks):
    decoder, codes = small_decoder(causal_blocks=causal_blocks), some_codes(47)
    whole = decoder.mel(codes)
    for blocks in (1, 3, 4):
        frames = frames_of(blocks * BLOCK, 12.5)
        prefix = decoder.mel(codes[: blocks * BLOCK])
        assert prefix.shape[1] == frames
        assert torch.allclose(prefix, whole[:, :frames], atol=ROUNDING, rtol=0)
    published, frames = small_decoder(), frames_of(30, 12.5)
    assert not torch.allclose(published.mel(codes[:30]), published.mel(codes)[:, :frames], atol=1e-2)


@pytest.mark.parametrize("causal_blocks", [1, 2, 4])
def test_a_causal_stream_equals_the_single_pass(causal_blocks):
    decoder, codes = small_decoder(causal_blocks=causal_blocks), some_codes(53)
    assert torch.allclose(decoder.block_mel(codes), decoder.mel(codes), atol=ROUNDING, rtol=0)


def test_a_causal_frame_hears_of_its_own_and_earlier_blocks():
    decoder, codes = small_decoder(causal_blocks=2), some_codes(30)
    other = codes.clone()
    other[15] = (other[15] + 1) % 24
    changed = (decoder.mel(codes) - decoder.mel(other)).abs().amax(dim=0) > 1e-5
    first, last = frames_of(10, 12.5), frames_of(20, 12.5)
    assert not changed[:first].any()
    assert changed[first:last].float().mean() > 0.9 and changed[last:].any()


def test_a_causal_network_trains_as_it_streams():
    decoder = small_decoder(causal_blocks=2)
    flow, codes = decoder.flow.train(), some_codes(30)
    content = flow.content(codes[None], frames_of(30, 12.5))
    rows = torch.randn(4, 80, content.shape[-1])
    content = content.expand(4, -1, -1)
    flow.velocity(rows, torch.rand(4), content, torch.randn(4, 80), 0 * rows).square().mean().backward()
    missing = [name for name, value in flow.named_parameters() if value.grad is None]
    assert all(name.startswith("spk_embed") for name in missing)
    assert all(bool(value.grad.isfinite().all()) for value in flow.parameters() if value.grad is not None)


def test_a_causal_network_wants_blocks_of_tokens():
    shape = small_decoder(causal_blocks=2).saved.shape
    wrong = replace(shape, encoder=replace(shape.encoder, block_size=0))
    with pytest.raises(ValueError, match=r"shape\.causal_blocks: got 2 with encoder\.block_size 0, 12\.5 tokens/s"):
        MelFlow(wrong, 24, False, 12.5)


def test_a_straight_start_leads_to_the_content_in_a_causal_network_too():
    torch.manual_seed(0)
    config = replace(small_decoder().saved.shape.unet, channels=[96, 64], num_mid_blocks=1)
    network = UNet(config, 80, compatible=False, causal_blocks=2)
    noisy, content = torch.randn(2, 2, 80, 50)
    begin_straight(network, 80)
    blocks = torch.arange(50) // 20
    with torch.no_grad():
        given = (noisy, None, content, torch.tensor([0.1, 0.8]), torch.randn(2, 80), torch.zeros(2, 80, 50))
        velocity = network(*given, blocks=blocks)
    straight = content - noisy
    error = (velocity - straight).square().mean() / straight.square().mean()
    assert float(error) < 0.25  # a frame too late it would be over 1

"""DNSMOS P.835: how good speech sounds over all, 1 to 5, without a recording to compare it with.

A small network that was taught by listeners of noise suppressors: it hears noise and distortion, and says little about
how natural a voice is. Its ONNX file runs as it is; windows and the polynomial behind it are those of its package,
whose code is not used.

Source  Reddy et al. 2022, DNSMOS P.835 (arXiv 2110.01763); the non-personalised model
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from components.shared.assets import fetch
from components.shared.audio import require_sound, resample

SAMPLE_RATE_HZ = 16_000
"""What the network hears; other waves are resampled."""
MIN_DURATION_S = 0.1
WINDOW, HOP = 144_160, 16_000
"""Samples that are judged at once, 9.01 s, and from one such window to the next."""
OVERALL = 2
"""Place of the overall score among the network's three outputs, after signal and background."""
TO_LISTENERS = (-0.06766283, 1.11546468, 0.04602535)
"""Polynomial, highest power first, from the network's output to the scale of the listeners."""
PIECE = "piece:dnsmos"
FILE = "speechmos/dnsmos_models/sig_bak_ovr.onnx"
"""Where in the piece the network lies."""


class Dnsmos:
    """The judge; a wave's score does not depend on the waves beside it."""

    def __init__(self, source: str = PIECE) -> None:
        """source: piece:dnsmos, or the path of the network as ONNX.

        Raises ValueError when the source is no ONNX file, ConnectionError when the piece cannot be had now.
        """
        import onnxruntime
        import torch

        path = fetch(PIECE.removeprefix("piece:")) / FILE if source == PIECE else Path(source)
        if not path.is_file():
            raise ValueError(f"DNSMOS: got {source!r}, wanted {PIECE} or the path of its ONNX file")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        try:
            self.session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        except Exception as error:
            raise ValueError(f"{path}: not readable as ONNX: {str(error).strip().splitlines()[0]}") from error

    def score(self, waves: Sequence[np.ndarray], sample_rate_hz: int) -> list[float]:
        """waves: each (samples,), float32, -1..1, at sample_rate_hz -> 1 (bad) .. 5 (excellent) each.

        A short wave is repeated until it fills a window and judged once: its package adds windows over the same
        repeated sound, at up to eight times the cost, which moved scores by 0.02 on average. A long one is judged in
        windows a second apart and the mean is given. Samples beyond -1..1 are clipped, as in a file. Raises ValueError
        for a wave that is shorter than 0.1 s, not of one channel, or not finite.
        """
        for number, wave in enumerate(waves):
            require_sound(wave, sample_rate_hz, f"DNSMOS: wave {number}", MIN_DURATION_S)
        return [self._score(resample(wave, sample_rate_hz, SAMPLE_RATE_HZ)) for wave in waves]

    def _score(self, wave: np.ndarray) -> float:
        wave = np.clip(wave, -1.0, 1.0).astype(np.float32)
        if len(wave) < WINDOW:
            wave = np.resize(wave, WINDOW)
        starts = range(0, HOP * max(1, len(wave) // HOP - 9), HOP)
        raw = [self.session.run(None, {"input_1": wave[None, start : start + WINDOW]})[0][0] for start in starts]
        return float(np.polyval(TO_LISTENERS, np.stack(raw)[:, OVERALL]).mean())

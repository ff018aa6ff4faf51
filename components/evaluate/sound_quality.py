"""How decoded speech sounds and whose voice it is: each judge on each way of an utterance.

A judge's mean says how far the decoded sound is from the original, and from what the vocoder alone leaves of it, by the
same judge on the same utterances; the scales of different judges are not one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from components.evaluate.config import SoundJudge
from components.shared.contracts import ItemScore, SpeechTokens

if TYPE_CHECKING:
    from torch import Tensor

ORIGINAL = "original"
"""The way that all others are compared with."""
NAMES = {
    SoundJudge.mos: "DistillMOS",
    SoundJudge.dnsmos: "DNSMOS",
    SoundJudge.visqol: "ViSQOL",
    SoundJudge.speaker: "speaker similarity",
}


@dataclass(frozen=True, kw_only=True)
class Sounds:
    """One utterance and all its ways, each (samples,), float32, -1..1, at one rate."""

    row: SpeechTokens
    group: str
    """What it is reported with."""
    waves: dict[str, np.ndarray]
    """Way -> sound; "original" among them."""
    other: np.ndarray | None
    """Another utterance of the same speaker, None where there is none."""


Verdicts = dict[SoundJudge, dict[str, float]]
"""Judge -> way -> its score of one utterance; a way that a judge has nothing to say about is left out."""


def judge_sounds(
    sounds: Sequence[Sounds], sample_rate_hz: int, judges: Sequence[SoundJudge], device: str = "cpu"
) -> list[Verdicts]:
    """What each judge says of each way of each utterance, in the order of the utterances."""
    found: list[Verdicts] = [{} for _ in sounds]
    for judge in judges:
        for verdicts, scores in zip(found, _scores(judge, sounds, sample_rate_hz, device), strict=True):
            verdicts[judge] = scores
    return found


def _scores(judge: SoundJudge, sounds: Sequence[Sounds], sample_rate_hz: int, device: str) -> list[dict[str, float]]:
    """Way -> score, for each utterance."""
    if judge is SoundJudge.speaker:
        return _likenesses(sounds, sample_rate_hz, device)
    if judge is SoundJudge.visqol:
        from components.shared.visqol import visqol

        made = [{way: wave for way, wave in item.waves.items() if way != ORIGINAL} for item in sounds]
        originals = [[item.waves[ORIGINAL]] * len(ways) for item, ways in zip(sounds, made, strict=True)]
        return [
            dict(zip(ways, visqol(list(ways.values()), beside, sample_rate_hz), strict=True))
            for ways, beside in zip(made, originals, strict=True)
        ]
    if judge is SoundJudge.mos:
        from components.shared.distillmos import DistillMos

        score = DistillMos(device=device).score
    else:
        from components.shared.dnsmos import Dnsmos

        score = Dnsmos().score
    return [dict(zip(item.waves, score(list(item.waves.values()), sample_rate_hz), strict=True)) for item in sounds]


def _likenesses(sounds: Sequence[Sounds], sample_rate_hz: int, device: str) -> list[dict[str, float]]:
    """Cosine to the original's voice; of the original itself to the speaker's other utterance, where there is one."""
    from components.shared.speaker_embedding import SpeakerEmbedder, similarity

    embedder = SpeakerEmbedder(device=device)

    def voice(wave: np.ndarray) -> Tensor:
        return embedder.embed([wave], sample_rate_hz)[0]

    found = []
    for item in sounds:
        original = voice(item.waves[ORIGINAL])
        others = {ORIGINAL: item.other} | {way: wave for way, wave in item.waves.items() if way != ORIGINAL}
        found.append(
            {way: float(similarity(original, voice(wave))) for way, wave in others.items() if wave is not None}
        )
    return found


def sound_scores(sounds: Sequence[Sounds], verdicts: Sequence[Verdicts], tasks: dict[str, str]) -> list[ItemScore]:
    """One score a judge, way and utterance, beside that of the original. tasks: way -> task in the figures."""
    return [
        ItemScore(
            id=item.row.id,
            task=task,
            mode=judge.value,
            groups=[item.group],
            language=item.row.language,
            cluster=item.row.id,
            score=scores[way],
            baseline=None if way == ORIGINAL else scores.get(ORIGINAL),
            weight=1.0,
            reference=item.row.text or "",
            answer="",
        )
        for way, task in tasks.items()
        for item, found in zip(sounds, verdicts, strict=True)
        for judge, scores in found.items()
        if way in scores
    ]


def in_words(verdicts: Verdicts) -> dict[str, str]:
    """Judge's name -> its scores of every way, for a reader."""
    return {
        NAMES[judge]: ", ".join(f"{way} {score:.2f}" for way, score in scores.items())
        for judge, scores in verdicts.items()
    }

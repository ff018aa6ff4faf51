"""Speaker vectors: heard in recordings by a pre-trained extractor, or learned with the flow where there is none."""

from __future__ import annotations

import torch
from torch import Tensor

from components.shared.audio import read_wave
from components.shared.tracking import Tracker
from components.speech_decoder.config import VoicesConfig
from components.speech_decoder.data import Corpus
from components.speech_decoder.mel import SAMPLE_RATE_HZ


def speaker_vectors(corpus: Corpus, config: VoicesConfig, tracker: Tracker) -> Tensor | None:
    """(speakers, 192), float32, length 1 each, a speaker's mean over its first training utterances; None: learn them.

    They are learned when no extractor is named, and, said aloud, when the one that is cannot be fetched now.
    """
    if not config.source:
        return None
    from components.shared.speaker_embedding import SpeakerEmbedder

    try:
        embedder = SpeakerEmbedder(config.source, "cuda" if torch.cuda.is_available() else "cpu")
    except ConnectionError as error:
        tracker.say(f"speech_decoder: {error}; speaker vectors are learned instead and know no other voice")
        return None
    vectors = []
    for name in tracker.progress(corpus.speakers, len(corpus.speakers), "speech_decoder: hearing the speakers"):
        pairs = [pair for pair in corpus.train if pair.speaker == name][: config.num_utterances]
        waves = [read_wave(pair.audio, SAMPLE_RATE_HZ)[0] for pair in pairs]
        each = torch.nn.functional.normalize(embedder.embed(waves, SAMPLE_RATE_HZ).cpu(), dim=1)
        vectors.append(torch.nn.functional.normalize(each.mean(dim=0), dim=0))
    return torch.stack(vectors)

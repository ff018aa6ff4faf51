"""Speaker vectors: heard in recordings by a pre-trained extractor, or learned with the flow where there is none."""

from __future__ import annotations

import torch
from torch import Tensor

from components.shared.audio import read_wave
from components.shared.tracking import Tracker
from components.speech_decoder.config import VoicesConfig
from components.speech_decoder.data import Corpus, Pair
from components.speech_decoder.mel import SAMPLE_RATE_HZ


def speaker_vectors(corpus: Corpus, config: VoicesConfig, tracker: Tracker) -> Tensor | None:
    """(speakers, 192), float32, length 1 each, a speaker's mean over its first training utterances; None: learn them.

    They are learned when no extractor is named, and, said aloud, when the one that is cannot be fetched now. Raises
    ValueError when no utterance is asked for, or a speaker has none that is long enough to be heard.
    """
    if config.num_utterances < 1:
        raise ValueError(f"speech_decoder.voices.num_utterances: got {config.num_utterances}, wanted at least 1")
    if not config.source:
        return None
    from components.shared.speaker_embedding import MIN_DURATION_S, SpeakerEmbedder

    try:
        embedder = SpeakerEmbedder(config.source, "cuda" if torch.cuda.is_available() else "cpu")
    except ConnectionError as error:
        tracker.say(f"speech_decoder: {error}; speaker vectors are learned instead and know no other voice")
        return None
    heard: dict[str, list[Pair]] = {name: [] for name in corpus.speakers}
    for pair in corpus.train:
        if pair.duration_s >= MIN_DURATION_S and len(heard[pair.speaker]) < config.num_utterances:
            heard[pair.speaker].append(pair)
    vectors = []
    for name in tracker.progress(corpus.speakers, len(corpus.speakers), "speech_decoder: hearing the speakers"):
        if not heard[name]:
            raise ValueError(
                f"speaker {name!r}: no training utterance of {MIN_DURATION_S} s or more to hear the voice in"
            )
        waves = [read_wave(pair.audio, SAMPLE_RATE_HZ)[0] for pair in heard[name]]
        each = torch.nn.functional.normalize(embedder.embed(waves, SAMPLE_RATE_HZ).cpu(), dim=1)
        vectors.append(torch.nn.functional.normalize(each.mean(dim=0), dim=0))
    return torch.stack(vectors)

"""Sentences of a public test set, VCTK at scale, said by the text-to-token model beside the recordings of them."""

from __future__ import annotations

from collections import Counter

import torch

from components.evaluate.benchmarks import CHUNK_S, Benchmarks, Recording, chunks, need_every_part, read_waves
from components.evaluate.evaluation import Evaluation
from components.evaluate.saying import Saying, Talker, scores_beside_real
from components.shared.contracts import ItemScore
from components.shared.recognizer import normalize_text


class Unheard:
    """Lets each sentence pass once, and none that training said; what is left out is counted."""

    def __init__(self, train: set[str]) -> None:
        """train: normalised texts of training."""
        self.train = train

    def __call__(self, rows: list[Recording], dropped: Counter[str]) -> list[Recording]:
        """The recordings of one part that are kept, the first one by id of each sentence."""
        left, seen = [], set()
        for row in sorted(rows, key=lambda row: row.id):
            text = normalize_text(row.text, row.language)
            reason = "text_in_training" if text in self.train else "repeated_text" if text in seen else ""
            reason = reason or ("" if text else "empty_text")
            seen.add(text)
            if reason:
                dropped[f"dropped_{reason}_{row.group}"] += 1
            else:
                left.append(row)
        return left


def evaluate(public: Benchmarks, talker: Talker) -> Evaluation:
    """WER of the model's tokens, in its main speaker's voice, beside that of the recordings' tokens, and their lengths.

    A sentence that the model cannot say and a recording that cannot be decoded are dropped and counted
    (nothing_to_say, not_audio). Raises ValueError when a part has none left.
    """
    dropped = Counter(public.dropped)
    scores: list[ItemScore] = []
    rows = [row for row in public.rows if talker.sayable(row.text, row.language)]
    for row in public.rows:
        dropped[f"dropped_nothing_to_say_{row.group}"] += not talker.sayable(row.text, row.language)
    for part in chunks(rows, CHUNK_S):
        sound, waves = read_waves(part, dropped)
        if not sound:
            continue
        languages = [row.language for row in sound]
        codes = talker.ear.encode([torch.from_numpy(wave) for wave in waves])
        real = talker.hear([row.tolist() for row in codes], languages)
        said = talker.say([_saying(row, talker) for row in sound], "generation: public test sets")
        for row, one, beside in zip(sound, said, real, strict=True):
            dropped[f"dropped_no_tokens_{row.group}"] += not beside.codes
            scores += scores_beside_real([one], [beside], row.group) if beside.codes else []
    need_every_part(public.rows, scores, dropped)
    return Evaluation(scores=scores, metrics={name: float(number) for name, number in dropped.items() if number})


def _saying(row: Recording, talker: Talker) -> Saying:
    return Saying(id=row.id, text=row.text, language=row.language, speaker=talker.model.main_speakers[row.language])

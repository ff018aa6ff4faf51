"""A look at what the model says: held-out documents, cut in the middle and continued by the model."""

from __future__ import annotations

import numpy as np
import torch

from components.shared.packed_data import PackedData
from components.shared.speech_lm import SpeechTextLM
from components.shared.tracking import Tracker

MAX_TOKENS = 48


def continue_samples(lm: SpeechTextLM, data: PackedData, tracker: Tracker, per_source: int = 2) -> None:
    """Log, for a few held-out documents of every source, its first half and the model's most likely continuation."""
    left = {number: per_source for number in range(len(data.sources))}
    lines = []
    for number in range(len(data)):
        for record in data.pieces(number):
            source = int(record["source"])
            if left[source] == 0 or record["length"] < 8:
                continue
            left[source] -= 1
            ids = data.tokens(record).astype(np.int64)
            prompt = ids[: max(4, min(len(ids) // 2, MAX_TOKENS))].tolist()
            said = continue_greedily(lm, prompt, MAX_TOKENS)
            lines.append(f"[{data.sources[source]}] {lm.formats.show(prompt)}\n  -> {lm.formats.show(said)}")
    tracker.log_text("\n".join(lines) + "\n", "continuations.txt")


@torch.inference_mode()
def continue_greedily(lm: SpeechTextLM, prompt: list[int], num_tokens: int) -> list[int]:
    """The most likely next ids, at most num_tokens, up to and with the end of the document."""
    device = next(lm.model.parameters()).device
    ids, cache, said = torch.tensor([prompt], device=device), None, []
    for _ in range(num_tokens):
        out = lm.model(input_ids=ids, past_key_values=cache, use_cache=True)
        cache = out.past_key_values
        said.append(int(out.logits[0, -1, : lm.vocabulary.size].argmax()))
        if said[-1] == lm.vocabulary.end_of_text:
            break
        ids = torch.tensor([said[-1:]], device=device)
    return said

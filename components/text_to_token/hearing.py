"""What the model's speech tokens sound like to the speech tokenizer: the text it hears beside the one asked for."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from components.shared.engine import STOP, Engine
from components.shared.recognizer import error_measure, normalize_text, word_error_rate
from components.shared.tracking import Tracker
from components.text_to_token.config import TextToTokenConfig
from components.text_to_token.model import TextToToken
from components.text_to_token.pairs import Pair


def hear(
    model: TextToToken,
    engine: Engine,
    transcribe: Callable[[list[torch.Tensor], list[str]], list[str]],
    pairs: list[Pair],
    config: TextToTokenConfig,
    tracker: Tracker,
) -> tuple[list[dict[str, float]], dict[str, float]]:
    """(one record a sentence, figures over all): the pairs' texts said by the model's main speakers and transcribed.

    The real tokens of the same sentences are heard as well, so that the model's errors can be told from the ear's.
    """
    requests = [
        model.request(
            pair.id,
            pair.said,
            pair.language,
            speaker=model.main_speakers[pair.language],
            seed=config.seed + number,
            temperature=config.temperature,
            top_p=config.top_p,
        )
        for number, pair in enumerate(pairs)
        if pair.language in model.main_speakers
    ]
    pairs = [pair for pair in pairs if pair.language in model.main_speakers]
    if not pairs:
        return [], {}
    completions = engine.generate_all(requests)
    codes = [model.codes(completion.token_ids) for completion in completions]
    languages = [pair.language for pair in pairs]
    said = transcribe([torch.tensor(c, dtype=torch.long) for c in codes], languages)
    real = transcribe([torch.from_numpy(pair.codes.astype(np.int64)) for pair in pairs], languages)
    rows = []
    for pair, completion, made, heard in zip(pairs, completions, codes, said, strict=True):
        rows.append(
            {
                "wer": word_error_rate([pair.text], [heard], pair.language).rate,
                "length_ratio": len(made) / len(pair.codes),
                "finished": float(completion.finish_reason == STOP),
                "faulty": float(bool(model.fault(pair.said, pair.language, completion))),
                "num_tokens": float(len(made)),
            }
        )
    figures = {name: float(np.mean([row[name] for row in rows])) for name in ("length_ratio", "finished", "faulty")}
    for language in sorted({pair.language for pair in pairs}):
        chosen = [i for i, pair in enumerate(pairs) if pair.language == language]
        wanted = [pairs[i].text for i in chosen]
        kind = error_measure(language)
        figures[f"{kind}_{language}"] = word_error_rate(wanted, [said[i] for i in chosen], language).rate
        figures[f"{kind}_{language}_real_tokens"] = word_error_rate(wanted, [real[i] for i in chosen], language).rate
    lines = [
        f"{pair.id}\n  asked {normalize_text(pair.text, pair.language)}\n  heard {normalize_text(text, pair.language)}"
        for pair, text in zip(pairs, said, strict=True)
    ]
    tracker.log_text("\n".join(lines) + "\n", "heard.txt")
    return rows, figures

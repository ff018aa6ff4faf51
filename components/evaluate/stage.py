"""Evaluation: one trained model, its items, honest figures."""

from __future__ import annotations

import importlib
from collections.abc import Callable

from components.evaluate.config import EvaluateConfig
from components.evaluate.evaluation import Evaluation
from components.evaluate.figures import summarise
from components.evaluate.plots import interval_figure
from components.evaluate.samples import SampleBook
from components.shared.contracts import ItemScore
from components.shared.manifest import write_json, write_table
from components.shared.places import Inputs, Outputs
from components.shared.tracking import Tracker

FILES = {
    "speech_tokenizer": "transcription",
    "text_to_token": "generation",
    "pretrain": "language_modelling",
    "sft": "chat",
    "speech_decoder": "resynthesis",
}
"""Model -> the file of this room that knows its tasks."""

MAX_ROWS = 10_000

Evaluator = Callable[[EvaluateConfig, Inputs, SampleBook, Tracker], Evaluation]


def run(config: EvaluateConfig, inputs: Inputs, outputs: Outputs, tracker: Tracker) -> dict[str, float]:
    """Score the model that outputs.item names.

    Reads   data/<item>/model and what its tasks need, see the room's docstring
    Writes  data/evaluate/<item>/scores/ (contracts.ItemScore), data/evaluate/<item>/samples/ (contracts.Sample)
    Metrics see figures.summarise; and what the model's own file adds
    Source  Zeng et al. 2024, its experiments

    Raises ValueError when the item is no model, or when not one item could be scored.
    """
    evaluate = evaluator(outputs.item)
    book = SampleBook(outputs.folder("samples"), tracker)
    found = evaluate(config, inputs, book, tracker)
    if not found.scores:
        raise ValueError(f"evaluate {outputs.item}: no item of split {config.split.value} could be scored")
    metrics = found.metrics | summarise(found.scores, seed=config.seed, level=config.level)
    folder = outputs.folder("scores")
    for name, value in found.files.items():
        write_json(folder / name, value)
    write_table(folder, found.scores, ItemScore)
    book.close()
    tracker.log_figure(interval_figure(metrics, outputs.item), "figures")
    rows = [{"score": row.score, "weight": row.weight} for row in found.scores[:MAX_ROWS]]
    outputs.write_stats(shards=[{"items": float(len(found.scores))}], rows=rows)
    return metrics


def evaluator(item: str) -> Evaluator:
    """The function that evaluates a model; its file is imported now, the others never.

    Raises ValueError for a name that is no model.
    """
    if item not in FILES:
        raise ValueError(f"evaluate: --item: got {item!r}, wanted one of {', '.join(FILES)}")
    return importlib.import_module(f"components.evaluate.{FILES[item]}").evaluate

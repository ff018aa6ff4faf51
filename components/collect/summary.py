"""What a run of collect says about its tables: metrics, the columns of its check, a histogram and a few sounds."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import numpy as np

from components.collect.items import Items
from components.collect.ledger import Ledger
from components.collect.script import EVALUATION
from components.collect.splits import units
from components.collect.world import World
from components.shared.audio import read_wave
from components.shared.contracts import Text, Utterance
from components.shared.tracking import Tracker

NUM_STATS_ROWS = 10_000


def metrics_of(
    rows: list[Utterance], texts: list[Text], worlds: dict[str, World], items: dict[str, Items], ledger: Ledger
) -> dict[str, float]:
    """Counts, hours and shares of what was written, and how many rows were dropped for which reason."""
    metrics: dict[str, float] = {"utterances": len(rows), "hours": sum(row.duration_s for row in rows) / 3600}
    for field in ("corpus", "language", "split", "origin", "text_source"):
        hours: dict[str, float] = defaultdict(float)
        for row in rows:
            hours[getattr(row, field)] += row.duration_s / 3600
        for value, amount in sorted(hours.items()):
            metrics[f"hours_{field}_{value}"] = amount
            metrics[f"utterances_{field}_{value}"] = sum(getattr(row, field) == value for row in rows)
    metrics["mandarin_speech_share"] = metrics.get("hours_language_zh", 0.0) / max(metrics["hours"], 1e-9)
    metrics["speakers_train"] = len({row.speaker for row in rows if row.split == "train"})
    train = {row.speaker for row in rows if row.split == "train"}
    metrics["utterances_unseen_speaker"] = sum(row.split == "test" and row.speaker not in train for row in rows)
    for language in sorted({text.language for text in texts}):
        ours = [text for text in texts if text.language == language]
        metrics[f"texts_{language}"] = len(ours)
        metrics[f"words_{language}"] = sum(len(units(text.text, language)) for text in ours)
    for language, world in worlds.items():
        metrics[f"facts_{language}"] = len(world.facts)
        metrics[f"facts_withheld_{language}"] = sum(fact.row.withheld for fact in world.facts)
        for name in ("questions", "stories"):
            found = getattr(items[language], name) if language in items else []
            for split in ("validation", "test"):
                metrics[f"{name}_{language}_{split}"] = sum(item.split == split for item in found)
        metrics[f"stock_phrases_{language}"] = len(ledger.stock.get(language, ()))
    return metrics | {f"dropped_{reason}": float(count) for reason, count in sorted(ledger.drops.items())}


def stats_of(rows: list[Utterance], metrics: dict[str, float]) -> tuple[list[dict[str, float]], list[dict[str, float]]]:
    """(one record of totals, one record an utterance) for the stage's check."""
    step = max(1, len(rows) // NUM_STATS_ROWS)
    sample = [
        {
            "duration_s": row.duration_s,
            "sample_rate_hz": float(row.sample_rate_hz),
            "rms_dbfs": row.rms_dbfs,
        }
        for row in rows[::step]
    ]
    pace = [len(units(row.text, row.language)) / row.duration_s for row in rows if row.text] or [0.0]
    slow, fast = np.percentile(pace, [2, 98])
    dropped = sum(value for key, value in metrics.items() if key.startswith("dropped_"))
    totals = {
        "utterances": metrics["utterances"],
        "hours": metrics["hours"],
        "dropped_share": dropped / max(1.0, dropped + metrics["utterances"]),
        "labelled_share": sum(row.text is not None for row in rows) / max(1, len(rows)),
        "evaluation_utterances": float(sum(row.corpus == EVALUATION for row in rows)),
        "units_per_s_p02": float(slow),
        "units_per_s_p98": float(fast),
        "train_share": sum(row.split == "train" for row in rows) / max(1, len(rows)),
    }
    return [totals], sample[:NUM_STATS_ROWS]


def draw(rows: list[Utterance], tracker: Tracker) -> None:
    """A histogram of durations, one colour a corpus."""
    from matplotlib.figure import Figure

    by_corpus: dict[str, list[float]] = defaultdict(list)
    for row in rows:
        by_corpus[row.corpus].append(row.duration_s)
    figure = Figure(figsize=(7, 3.5), layout="constrained")
    axes = figure.subplots()
    axes.hist(list(by_corpus.values()), bins=40, stacked=True, label=list(by_corpus))
    axes.set(xlabel="duration, s", ylabel="utterances", title="Utterances by length")
    axes.legend(frameon=False)
    tracker.log_figure(figure, "durations")


def log_samples(rows: list[Utterance], folder: Path, tracker: Tracker) -> None:
    """One utterance of each speaker and corpus, at most twelve in all, and what they say."""
    chosen: dict[tuple[str, str], Utterance] = {}
    for row in rows:
        chosen.setdefault((row.corpus, row.speaker), row)
    said = []
    for row in list(chosen.values())[:12]:
        wave, rate_hz = read_wave(folder / row.audio)
        tracker.log_audio(wave, rate_hz, f"{row.corpus}-{row.id}")
        said.append(f"{row.id}\t{row.corpus}\t{row.speaker}\t{row.text}")
    tracker.log_text("\n".join(said) + "\n", "samples.tsv")

"""Encode every utterance into speech tokens, shard by shard."""

from __future__ import annotations

import shutil
import time
from collections import Counter
from pathlib import Path

import torch

from components.shared.contracts import Quarantined, SpeechTokens
from components.shared.executor import has_gpu, map_shards
from components.shared.manifest import EXACT, RECORDED, read_manifest, seal, write_table
from components.shared.places import Inputs, Outputs
from components.shared.tracking import Tracker
from components.tokenize.config import Dtype, TokenizeConfig
from components.tokenize.shards import make_shard, num_rows, plan, read_left_out, read_shard

SHOWN = 5
"""Utterances left out whose reason is shown in full; the quarantine names all."""
SAMPLE = 10_000
"""Rows in the sample that the gate looks at."""


def run(config: TokenizeConfig, inputs: Inputs, outputs: Outputs, tracker: Tracker) -> dict[str, float]:
    """Write the speech tokens of every utterance, in the order of the utterances.

    Reads   data/collect/utterances (contracts.Utterance), data/speech_tokenizer/model
    Writes  tokens (contracts.SpeechTokens), quarantine (contracts.Quarantined: what was left out, and why)
    Metrics tokens, hours, share of codes used, tokens a second and real-time factor of this run, what was dropped
    Source  Zeng et al. 2024, section 2.1

    Raises ValueError when not a single utterance can be read, or a setting is no number of things.
    """
    started = time.time()
    for name in ("utterances_per_shard", "threads_per_worker", "readers_per_worker"):
        if (value := getattr(config, name)) < 1:
            raise ValueError(f"tokenize.{name}: got {value}, wanted at least 1")
    folder, model = inputs.folder("collect", "utterances"), inputs.folder("speech_tokenizer", "model")
    settings = read_manifest(model).extra
    device = "cuda" if has_gpu(config.executor) else "cpu"
    planned = list(plan(folder, model, device, config))
    if not planned:
        raise ValueError(f"tokenize: got no utterance, wanted at least one, in {folder}")
    new_s = sum(entry.duration_s for entry in planned if not (outputs.work / "shards" / entry.key).exists())
    paths = map_shards(
        make_shard,
        [entry.shard for entry in planned],
        [entry.key for entry in planned],
        work=outputs.work,
        config=config.executor,
        progress=lambda done, total: tracker.progress(done, total, "tokenize"),
        on_gpu=device == "cuda",
        num_threads=config.threads_per_worker,
    )
    took_s = time.time() - started

    target = outputs.folder("tokens")
    for number, path in enumerate(paths):
        shutil.copyfile(path, target / f"part-{number:05d}.parquet")
    exact = device == "cpu" and config.dtype is Dtype.float32
    seal(target, contract=SpeechTokens.__name__, extra=settings, grade=EXACT if exact else RECORDED)
    write_table(outputs.folder("quarantine"), read_left_out(paths), Quarantined)
    metrics = _measure(paths, settings["num_codes"], outputs, tracker)
    if metrics["utterances"] == 0:
        left_out = sum(value for name, value in metrics.items() if name.startswith("dropped_"))
        raise ValueError(f"tokenize: not one of {left_out:.0f} utterances could be read, in {folder}")
    return {**metrics, "hours_of_this_run": new_s / 3600, "real_time_factor": new_s / took_s}


def _measure(paths: list[Path], num_codes: int, outputs: Outputs, tracker: Tracker) -> dict[str, float]:
    """Figures of the whole table; one record a shard and a sample of rows for the gate. Holds one shard at a time."""
    counts = torch.zeros(num_codes, dtype=torch.int64)
    dropped: Counter[str] = Counter()
    per_shard, sample = [], []
    seconds, seen = 0.0, 0
    step = max(1, num_rows(paths) // SAMPLE)
    for path in paths:
        rows, left_out = read_shard(path)
        for entry in left_out[: max(0, SHOWN - dropped.total())]:
            tracker.say(f"tokenize: {entry.id} left out: {entry.reason}: {entry.message}")
        dropped += Counter(entry.reason for entry in left_out)
        tokens = torch.tensor([code for row in rows for code in row.tokens], dtype=torch.int64)
        used = torch.bincount(tokens, minlength=num_codes)
        counts += used
        duration_s = sum(row.duration_s for row in rows)
        seconds += duration_s
        per_shard.append(
            {
                "utterances": float(len(rows)),
                "dropped_share": len(left_out) / max(1, len(rows) + len(left_out)),
                "tokens_per_s": len(tokens) / max(duration_s, 1e-9),
                "codes_used": float((used > 0).double().mean()),
                "largest_code": float(tokens.max()) if len(tokens) else 0.0,
            }
        )
        sample += [_row_figures(row) for row in rows[-seen % step :: step]]
        seen += len(rows)
    outputs.write_stats(shards=per_shard, rows=sample[:SAMPLE])
    for reason, count in sorted(dropped.items()):
        tracker.say(f"tokenize: dropped {count} for {reason}; all of them stand in {outputs.root / 'quarantine'}")
    return {
        "utterances": sum(record["utterances"] for record in per_shard),
        "tokens": float(counts.sum()),
        "hours": seconds / 3600,
        "tokens_per_s": float(counts.sum()) / max(seconds, 1e-9),
        "codes_used": float((counts > 0).double().mean()),
        **{f"dropped_{reason}": float(count) for reason, count in dropped.items()},
    }


def _row_figures(row: SpeechTokens) -> dict[str, float]:
    return {
        "num_tokens": float(len(row.tokens)),
        "tokens_per_s": len(row.tokens) / row.duration_s,
        "distinct_share": len(set(row.tokens)) / max(1, len(row.tokens)),
        "chars_per_token": len(row.text or "") / max(1, len(row.tokens)),
    }

"""Encode every utterance into speech tokens, shard by shard."""

from __future__ import annotations

import shutil
import time
from collections import Counter
from dataclasses import asdict
from pathlib import Path

import torch

from components.config import as_dict
from components.shared.contracts import SpeechTokens, Utterance
from components.shared.executor import map_shards
from components.shared.fingerprint import fingerprint
from components.shared.manifest import EXACT, RECORDED, hash_of, read_manifest, read_table, seal
from components.shared.places import Inputs, Outputs
from components.shared.tracking import Tracker
from components.tokenize.config import Dtype, TokenizeConfig
from components.tokenize.shards import Shard, make_shard, read_shard, reasons

SHOWN = 5
"""Utterances left out whose reason is shown in full."""
SAMPLE = 10_000
"""Rows in the sample that the gate looks at."""


def run(config: TokenizeConfig, inputs: Inputs, outputs: Outputs, tracker: Tracker) -> dict[str, float]:
    """Write the speech tokens of every utterance, in the order of the utterances.

    Reads   data/collect/utterances (contracts.Utterance), data/speech_tokenizer/model
    Writes  data/tokenize/tokens    (contracts.SpeechTokens)
    Metrics tokens, hours, share of codes used, tokens a second and real-time factor of this run, what was dropped
    Source  Zeng et al. 2024, section 2.1

    Raises ValueError when not a single utterance can be read.
    """
    started = time.time()
    folder, model = inputs.folder("collect", "utterances"), inputs.folder("speech_tokenizer", "model")
    settings = read_manifest(model).extra
    device = "cuda" if torch.cuda.is_available() else "cpu"
    rows = list(read_table(folder, Utterance))
    size = config.utterances_per_shard
    shards = [
        Shard(rows[at : at + size], folder, model, device, config.dtype, config.threads_per_worker)
        for at in range(0, len(rows), size)
    ]
    keys = _keys(shards, config)
    new = [shard for shard, key in zip(shards, keys, strict=True) if not (outputs.work / "shards" / key).exists()]
    new_s = sum(row.duration_s for shard in new for row in shard.rows)
    paths = map_shards(
        make_shard,
        shards,
        keys,
        work=outputs.work,
        config=config.executor,
        progress=lambda done, total: tracker.progress(done, total, "tokenize"),
    )
    took_s = time.time() - started

    target = outputs.folder("tokens")
    for number, path in enumerate(paths):
        shutil.copyfile(path, target / f"part-{number:05d}.parquet")
    exact = device == "cpu" and config.dtype is Dtype.float32
    seal(target, contract=SpeechTokens.__name__, extra=settings, grade=EXACT if exact else RECORDED)
    metrics = _measure(paths, settings["num_codes"], outputs, tracker)
    if metrics["utterances"] == 0:
        raise ValueError(f"tokenize: not one of {len(rows)} utterances could be read, in {folder}")
    return {**metrics, "hours_of_this_run": new_s / 3600, "real_time_factor": new_s / took_s}


def _keys(shards: list[Shard], config: TokenizeConfig) -> list[str]:
    """A key a shard: its rows, the content of their audio, the model, the settings that matter, the code."""
    settings = {name: value for name, value in as_dict(config).items() if name != "executor"}
    if not shards:
        return []
    audio = {entry.path: entry.sha256 for entry in read_manifest(shards[0].folder).files}
    common = [settings, read_manifest(shards[0].model).content_hash, shards[0].device, fingerprint("tokenize")]
    return [
        hash_of([[asdict(row) for row in shard.rows], [audio.get(row.audio, "") for row in shard.rows], common])
        for shard in shards
    ]


def _measure(paths: list[Path], num_codes: int, outputs: Outputs, tracker: Tracker) -> dict[str, float]:
    """Figures of the whole table; one record a shard and a sample of rows for the gate."""
    counts = torch.zeros(num_codes, dtype=torch.int64)
    dropped: Counter[str] = Counter()
    per_shard, sample = [], []
    seconds = 0.0
    for path in paths:
        rows, left_out = read_shard(path)
        dropped += reasons(left_out)
        for identity, reason, message in left_out[:SHOWN]:
            tracker.say(f"tokenize: {identity} left out: {reason}: {message}")
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
        sample += [_row_figures(row) for row in rows]
    outputs.write_stats(shards=per_shard, rows=sample[:: max(1, len(sample) // SAMPLE)][:SAMPLE])
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

"""How much faster is continuous batching than `model.generate` on batches that wait for their longest sequence?

    python -m benchmarks.generate [--prompts 256] [--threads 2] [--model FOLDER] [--out generate.json]

Same model, prompts, order, dtype, threads and batch size for both; every sequence has a fixed number of new tokens,
which neither makes use of beforehand, and greedy tokens are compared. Lengths: lognormal (longest at least 4 times the
mean, as in text-to-token requests) and uniform.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from components.shared.engine import EngineConfig, EngineKind, Request
from components.shared.engine.embedded import EmbeddedEngine

VOCAB = 3072
LENGTHS = ("lognormal", "uniform")


def make_model(folder: str) -> Any:
    """The model of a folder, or random weights in the shape of the tiny text-to-token model (4.4M in its layers)."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if folder:
        from transformers import AutoModelForCausalLM

        trained: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        return trained.to(device).eval()
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCAB,
        hidden_size=256,
        intermediate_size=704,
        num_hidden_layers=6,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=None,
        initializer_range=0.2,
    )
    model: Any = LlamaForCausalLM(config)
    return model.to(device).eval()


def make_requests(kind: str, count: int, vocab_size: int) -> list[Request]:
    """Prompts of 8 to 40 tokens with the lengths of a kind, in an order that knows nothing of lengths."""
    rng = np.random.default_rng(1)
    if kind == "uniform":
        lengths = rng.integers(8, 129, count)
    else:
        lengths = np.clip(np.exp(rng.normal(3.4, 0.8, count)), 4, 400).astype(int)
        lengths[0] = max(lengths[0], int(4.5 * lengths.mean()))
    return [
        Request(
            key=str(i),
            token_ids=rng.integers(0, vocab_size, rng.integers(8, 41)).tolist(),
            max_new_tokens=int(length),
        )
        for i, length in enumerate(lengths)
    ]


def plain(model: Any, requests: list[Request], batch: int) -> list[list[int]]:
    """model.generate on left-padded batches in the order of the requests."""
    made: list[list[int]] = []
    for start in range(0, len(requests), batch):
        part = requests[start : start + batch]
        longest = max(len(request.token_ids) for request in part)
        ids = torch.zeros(len(part), longest, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for row, request in enumerate(part):
            ids[row, longest - len(request.token_ids) :] = torch.tensor(request.token_ids)
            mask[row, longest - len(request.token_ids) :] = 1
        out = model.generate(
            ids.to(model.device),
            attention_mask=mask.to(model.device),
            max_new_tokens=max(request.max_new_tokens for request in part),
            do_sample=False,
            pad_token_id=0,
        )
        made += [
            row[longest : longest + request.max_new_tokens].tolist() for row, request in zip(out, part, strict=True)
        ]
    return made


def measure(model: Any, kind: str, options: argparse.Namespace) -> dict[str, Any]:
    """Tokens a second of both on one kind of lengths, best of the rounds, taken in turns."""
    config = EngineConfig(
        kind=EngineKind.transformers,
        model="",
        dtype="float32",
        max_batch=options.batch,
        max_length=512,
        max_tokens=8192,
        num_threads=options.threads,
        logprobs=False,
        servers=[],
        in_flight=64,
        timeout_s=60.0,
        patience_s=10.0,
    )
    engine = EmbeddedEngine(model, model.config.vocab_size, config)
    requests = make_requests(kind, options.prompts, model.config.vocab_size)
    lengths = np.array([request.max_new_tokens for request in requests])
    times: dict[str, list[float]] = {"plain": [], "embedded": []}
    with torch.inference_mode():
        for _ in range(options.rounds):
            started = time.perf_counter()
            ours = {completion.key: completion.token_ids for completion in engine.generate(requests)}
            times["embedded"].append(time.perf_counter() - started)
            started = time.perf_counter()
            theirs = plain(model, requests, options.batch)
            times["plain"].append(time.perf_counter() - started)
    equal = sum(ours[request.key] == made for request, made in zip(requests, theirs, strict=True))
    rates = {name: float(lengths.sum() / min(took)) for name, took in times.items()}
    return {
        "lengths": kind,
        "mean": float(lengths.mean()),
        "longest": int(lengths.max()),
        "plain_tokens_per_s": rates["plain"],
        "embedded_tokens_per_s": rates["embedded"],
        "speedup": rates["embedded"] / rates["plain"],
        "equal_sequences": f"{equal}/{len(requests)}",
    }


def main() -> None:
    """Measure, print the table, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prompts", type=int, default=256)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--model", default="")
    parser.add_argument("--out", type=Path, default=Path("runs/benchmarks/generate.json"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model = make_model(options.model)
    rows = [measure(model, kind, options) for kind in LENGTHS]
    header = (
        f"{'lengths':<10} {'mean':>6} {'longest':>8} {'plain tok/s':>12} {'embedded tok/s':>15} {'speed-up':>9} equal"
    )
    print(header)
    for row in rows:
        print(
            f"{row['lengths']:<10} {row['mean']:>6.1f} {row['longest']:>8} {row['plain_tokens_per_s']:>12,.0f} "
            f"{row['embedded_tokens_per_s']:>15,.0f} {row['speedup']:>8.2f}x {row['equal_sequences']}"
        )
    options.out.parent.mkdir(parents=True, exist_ok=True)
    setting = {name: value for name, value in vars(options).items() if name != "out"}
    setting |= {"torch": torch.__version__, "device": str(model.device), "cpus": os.cpu_count()}
    options.out.write_text(json.dumps({"setting": setting, "rows": rows}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

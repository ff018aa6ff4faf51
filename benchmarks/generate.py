"""How much faster than `model.generate` on batches are continuous batching and SGLang, and what bounds them?

    python -m benchmarks.generate [--prompts 256] [--threads 2] [--engines plain embedded sglang] [--out generate.json]
    python -m benchmarks.generate --shape 1.5B --dtype bfloat16 --prompts 8192 --batch 1024 --engines sglang   (one GPU)

Same model, prompts, order, dtype, threads and batch size for all; every sequence has a fixed number of new tokens,
which none makes use of beforehand, and greedy tokens are compared. Lengths: lognormal (longest at least 4 times the
mean, as in text-to-token requests) and uniform. SGLang is started here (`make setup-sglang`) or is at --sglang URL,
where components.shared.engine.serve serves the folder --model. The bound is a roofline: what one decoding step of a
full batch must read and compute, by this device's bandwidth and arithmetic as measured here.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from components.shared.engine import EngineConfig, EngineKind, Request
from components.shared.engine.embedded import EmbeddedEngine
from components.shared.engine.serve import ServerProcesses, ServingConfig
from components.shared.engine.sglang import SglangEngine
from components.shared.tokens import SPECIALS, add_speech, load_tokenizer, train_bpe

LENGTHS = ("lognormal", "uniform")
ENGINES = ("plain", "embedded", "sglang")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
SHAPES: dict[str, dict[str, Any]] = {
    "tiny": {
        "vocab_size": 3072,
        "hidden_size": 256,
        "intermediate_size": 704,
        "num_hidden_layers": 6,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "tie_word_embeddings": True,
    },
    "1.5B": {
        "vocab_size": 32768,
        "hidden_size": 2048,
        "intermediate_size": 5632,
        "num_hidden_layers": 32,
        "num_attention_heads": 16,
        "num_key_value_heads": 4,
        "tie_word_embeddings": True,
    },
}
"""The text-to-token models of the scales tiny and h800; with random weights, since speed does not care."""
_BYTES = 256 + len(SPECIALS)


def make_folder(folder: Path, shape: str, dtype: torch.dtype) -> None:
    """Write a model with random weights and a tokenizer with as many ids as its matrix has rows."""
    torch.manual_seed(0)
    torch.set_default_dtype(dtype)
    std = 0.2 if shape == "tiny" else 0.02
    config = LlamaConfig(**SHAPES[shape], bos_token_id=None, eos_token_id=None, initializer_range=std)
    LlamaForCausalLM(config).save_pretrained(folder)
    torch.set_default_dtype(torch.float32)
    add_speech(train_bpe(["a"], 256), config.vocab_size - _BYTES).save_pretrained(folder)


def load_model(folder: Path, dtype: torch.dtype) -> Any:
    """The causal LM of a folder, on the GPU when there is one."""
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, local_files_only=True)
    return model.to("cuda" if torch.cuda.is_available() else "cpu").eval()


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


def plain(model: Any, requests: list[Request], batch: int) -> dict[str, list[int]]:
    """model.generate on left-padded batches in the order of the requests."""
    made: dict[str, list[int]] = {}
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
        for row, request in zip(out, part, strict=True):
            made[request.key] = row[longest : longest + request.max_new_tokens].tolist()
    return made


Engine = Callable[[list[Request]], dict[str, list[int]]]


def make_engines(options: argparse.Namespace, folder: Path, model: Any, stack: ExitStack) -> dict[str, Engine]:
    """Each way of generating, from requests to {key: new ids}."""
    vocab_size = len(load_tokenizer(folder))
    config = EngineConfig(
        kind=EngineKind.sglang,
        model=str(folder),
        dtype=options.dtype,
        max_batch=options.batch,
        max_length=512,
        max_tokens=8192,
        num_threads=options.threads,
        logprobs=False,
        servers=[options.sglang],
        in_flight=2 * options.batch,
        timeout_s=600.0,
        patience_s=60.0,
    )
    engines: dict[str, Engine] = {}
    for name in options.engines:
        if name == "plain":
            engines[name] = lambda requests: plain(model, requests, options.batch)
        elif name == "embedded":
            engines[name] = _keyed(EmbeddedEngine(model, vocab_size, config))
        else:
            if not options.sglang:
                serving = ServingConfig(model=str(folder), dtype=options.dtype, num_threads=options.threads)
                serving.extra = ["--max-running-requests", str(options.batch)]
                servers = ServerProcesses(serving)
                stack.callback(servers.close)
                config.servers = servers.start()
            engines[name] = _keyed(SglangEngine(config, vocab_size))
    return engines


def _keyed(engine: EmbeddedEngine | SglangEngine) -> Engine:
    return lambda requests: {made.key: made.token_ids for made in engine.generate(iter(requests))}


def measure(engines: dict[str, Engine], kind: str, vocab_size: int, options: argparse.Namespace) -> dict[str, Any]:
    """Tokens a second of each on one kind of lengths, best of the rounds, taken in turns."""
    requests = make_requests(kind, options.prompts, vocab_size)
    lengths = np.array([request.max_new_tokens for request in requests])
    times: dict[str, list[float]] = {name: [] for name in engines}
    made: dict[str, dict[str, list[int]]] = {}
    with torch.inference_mode():
        for run in engines.values():
            run(requests[: options.batch])  # what is built at the first call is not measured
        for _ in range(options.rounds):
            for name, run in engines.items():
                started = time.perf_counter()
                made[name] = run(requests)
                times[name].append(time.perf_counter() - started)
    first = next(iter(engines))
    row: dict[str, Any] = {"lengths": kind, "mean": float(lengths.mean()), "longest": int(lengths.max())}
    for name in engines:
        row[name] = {
            "tokens_per_s": float(lengths.sum() / min(times[name])),
            "speedup": min(times[first]) / min(times[name]),
            "equal_sequences": sum(made[name][key] == ids for key, ids in made[first].items()),
        }
    prompts = np.array([len(request.token_ids) for request in requests])
    row["mean_context"] = float((lengths * (prompts + lengths / 2)).sum() / lengths.sum())
    return row


def device_speed(device: torch.device, dtype: torch.dtype) -> tuple[float, float]:
    """(bytes/s read by a sum, FLOP/s of a square matrix product) of the device, best of five."""
    numbers = torch.ones(2**28 if device.type == "cuda" else 2**26, dtype=dtype, device=device)
    size = 8192 if device.type == "cuda" else 2048
    matrix = torch.ones(size, size, dtype=dtype, device=device)
    bandwidth = numbers.numel() * numbers.element_size() / _best(lambda: numbers.sum(), device)
    return bandwidth, 2.0 * size**3 / _best(lambda: matrix @ matrix, device)


def _best(work: Callable[[], Any], device: torch.device) -> float:
    took = []
    for _ in range(6):
        started = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize()
        took.append(time.perf_counter() - started)
    return min(took[1:])


def roofline(shape: Any, num_bytes: int, batch: int, context: float, speed: tuple[float, float]) -> dict[str, float]:
    """What a decoding step of a full batch cannot beat; shape: the model's config, num_bytes: of a number."""
    head_size = getattr(shape, "head_dim", None) or shape.hidden_size // shape.num_attention_heads
    heads, key_heads, layers = shape.num_attention_heads, shape.num_key_value_heads, shape.num_hidden_layers
    attention = shape.hidden_size * head_size * (2 * heads + 2 * key_heads)
    matrices = layers * (attention + 3 * shape.hidden_size * shape.intermediate_size)
    matrices += shape.hidden_size * shape.vocab_size
    kv_bytes = 2.0 * layers * key_heads * head_size * num_bytes * context
    flops = 2.0 * matrices + 4.0 * layers * heads * head_size * context
    weights_s = matrices * num_bytes / speed[0]
    kv_s, arithmetic_s = batch * kv_bytes / speed[0], batch * flops / speed[1]
    return {
        "weights_ms": 1e3 * weights_s,
        "kv_ms": 1e3 * kv_s,
        "arithmetic_ms": 1e3 * arithmetic_s,
        "tokens_per_s": batch / max(weights_s + kv_s, arithmetic_s),
        "gb_per_s": speed[0] / 1e9,
        "tflop_per_s": speed[1] / 1e12,
    }


def show(row: dict[str, Any], names: list[str]) -> None:
    """One line an engine and one of the bound."""
    print(f"{row['lengths']}: mean {row['mean']:.1f}, longest {row['longest']} new tokens")
    for name in names:
        cell, bound = row[name], row["bound"]["tokens_per_s"]
        print(
            f"  {name:<9} {cell['tokens_per_s']:>10,.0f} tokens/s {cell['speedup']:>6.2f}x "
            f"{cell['equal_sequences']} equal, {cell['tokens_per_s'] / bound:.1%} of the bound"
        )
    bound = row["bound"]
    print(
        f"  bound     {bound['tokens_per_s']:>10,.0f} tokens/s: a step reads weights {bound['weights_ms']:.2f} ms and "
        f"keys and values {bound['kv_ms']:.2f} ms at {bound['gb_per_s']:,.0f} GB/s, computes "
        f"{bound['arithmetic_ms']:.2f} ms at {bound['tflop_per_s']:.2f} TFLOP/s"
    )


def main() -> None:
    """Measure, print the table, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prompts", type=int, default=256)
    parser.add_argument("--batch", type=int, default=32, help="sequences decoded together")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--shape", choices=list(SHAPES), default="tiny")
    parser.add_argument("--dtype", choices=list(DTYPES), default="float32")
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=list(ENGINES))
    parser.add_argument("--model", default="", help="folder of a model instead of random weights")
    parser.add_argument("--sglang", default="", help="URL of a running server instead of one that starts here")
    parser.add_argument("--out", type=Path, default=Path("runs/benchmarks/generate.json"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    dtype = DTYPES[options.dtype]
    with ExitStack() as stack:
        folder = Path(options.model or stack.enter_context(tempfile.TemporaryDirectory()))
        if not options.model:
            make_folder(folder, options.shape, dtype)
        shape = AutoConfig.from_pretrained(folder)
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        speed = device_speed(device, dtype)
        model = load_model(folder, dtype) if {"plain", "embedded"} & set(options.engines) else None
        engines = make_engines(options, folder, model, stack)
        rows = [measure(engines, kind, len(load_tokenizer(folder)), options) for kind in LENGTHS]
    for row in rows:
        row["bound"] = roofline(shape, dtype.itemsize, options.batch, row["mean_context"], speed)
        show(row, options.engines)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    setting = {name: value for name, value in vars(options).items() if name != "out"}
    setting |= {"torch": torch.__version__, "device": str(device), "cpus": os.cpu_count()}
    options.out.write_text(json.dumps({"setting": setting, "rows": rows}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

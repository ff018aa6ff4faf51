"""How fast is a training step, beside transformers' Trainer on the same documents, and how much of the device is used?

    python -m benchmarks.train_step [--shape tiny | 150M | 1.5B | 9B-layers] [--ways ...] [--steps 12] [--out step.json]

The same documents (random tokens, log-normal lengths around an eighth of a sequence), float32 weights under bfloat16
autocast, fused AdamW, clipping at 1, as many threads, and every way in a process of its own, in turn, --repeats times.
tokens/s counts real tokens, without padding; MFU counts their arithmetic (components/shared/flops.py) over the device's
peak, measured on a CPU by one large product. Peak memory: of the process on a CPU, of the allocator on a GPU.

trainer, across   rows of one length, documents joined, attention across their borders: run_clm's way, the cheapest
trainer, padded   a document a row, padded to the longest of the batch: blind to each other, as ours are
trainer, flat     DataCollatorWithFlattening: one row of all documents of a batch, blind to each other
... compiled      the same with torch_compile
ours              best-fit packing, blind to each other, the loss without all logits; compiled: its layers
ours, muon        compiled, with the optimizer of the tiny scale

CPU (s) is what a step takes of the processors' time: with --threads 1 it says on a shared machine what the clock says
on a quiet one. The Trainer's ways need `pip install accelerate==1.15.0`, which is not part of the project: transformers
would import it everywhere. On a GPU leave ways without a kernel for documents blind to each other out with --ways.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from components.shared.causal_lm_module import optimizer_of
from components.shared.flops import TokenCost, peak_flops, visible_pairs
from components.shared.heap import keep_memory
from components.shared.lm_config import ComputeConfig, Kept, OptimizerConfig, OptimizerKind
from components.shared.packed_attention import packed
from components.shared.packed_lm import PackedLM, prepare
from components.shared.packing import IGNORED, Piece, best_fit, collate, pack

WARM_UP = 3
PAD = 0
WAYS = (
    "trainer, across",
    "trainer, across, compiled",
    "trainer, padded",
    "trainer, padded, compiled",
    "trainer, flat",
    "ours",
    "ours, compiled",
    "ours, muon",
)


@dataclass(frozen=True)
class Shape:
    """A model and its batch."""

    rows: int
    """Of the embedding and the head, a multiple of 64."""
    width: int
    inner: int
    layers: int
    heads: int
    shared_heads: int
    tied: bool
    sequences: int
    length: int
    chunk: int

    def model(self, device: torch.device) -> LlamaForCausalLM:
        """Random float32 weights."""
        config = LlamaConfig(
            vocab_size=self.rows,
            hidden_size=self.width,
            intermediate_size=self.inner,
            num_hidden_layers=self.layers,
            num_attention_heads=self.heads,
            num_key_value_heads=self.shared_heads,
            max_position_embeddings=4 * self.length,
            tie_word_embeddings=self.tied,
        )
        torch.manual_seed(0)
        with device:
            model = LlamaForCausalLM(config).train()
        model.set_attn_implementation("sdpa")
        return model

    def documents(self, num_batches: int) -> list[list[list[np.ndarray]]]:
        """Batches of sequences of documents, packed by best fit; every way gets these."""
        rng = np.random.default_rng(0)
        wanted = num_batches * self.sequences
        lengths = np.clip(rng.lognormal(np.log(self.length / 8), 0.8, 16 * wanted).astype(int), 4, self.length)
        bins = best_fit(lengths, self.length)
        chosen = [bins[i] for i in rng.permutation(len(bins))[:wanted]]
        sequences = [[rng.integers(1, self.rows, lengths[i]) for i in numbers] for numbers in chosen]
        return [sequences[i : i + self.sequences] for i in range(0, wanted, self.sequences)]


SHAPES = {
    "tiny": Shape(3136, 256, 768, 4, 2, 2, True, 16, 256, 512),
    "150M": Shape(49152, 768, 2048, 16, 12, 4, True, 4, 1024, 1024),
    "1.5B": Shape(168192, 1536, 8960, 28, 12, 2, True, 1, 8192, 4096),
    "9B-layers": Shape(168192, 4096, 13696, 4, 32, 2, False, 1, 8192, 4096),
}
"""tiny: conf/scale/tiny.yaml. 1.5B: Qwen2.5-1.5B's. 9B-layers: four of GLM-4-9B's 40 layers. Both with 16,384 codes."""


def now() -> tuple[float, float]:
    """Seconds of the clock and of this process on its processors."""
    return time.perf_counter(), time.process_time()


def ours(shape: Shape, way: str, num_steps: int, device: torch.device) -> Iterator[tuple[float, float]]:
    """What `now` says after every step."""
    keep_memory()
    model = shape.model(device)
    lm = PackedLM(model, num_real=shape.rows, chunk=shape.chunk)
    kept = Kept.products if device.type == "cuda" else Kept.everything
    prepare(lm, ComputeConfig(compile=way != "ours", kept=kept))
    kind = OptimizerKind.muon if "muon" in way else OptimizerKind.adamw
    settings = OptimizerConfig(
        kind=kind, peak_lr=1e-4, final_lr=1e-5, warmup_steps=1, weight_decay=0.1, beta1=0.9, beta2=0.95
    )
    optimizer = optimizer_of(model, settings)
    with packed(model):
        for sequences in shape.documents(num_steps):
            made = [pack([Piece(d, 0) for d in documents], shape.length, PAD, False) for documents in sequences]
            batch = {name: value.to(device) for name, value in collate(made).items()}
            with torch.autocast(device.type, torch.bfloat16):
                loss, _, _ = lm(batch)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            float(loss.detach())  # waits for the device
            yield now()


def trainer(shape: Shape, way: str, num_steps: int, device: torch.device) -> Iterator[tuple[float, float]]:
    """The same for transformers' Trainer."""
    from transformers import DataCollatorWithFlattening, Trainer, TrainerCallback, TrainingArguments

    batches = shape.documents(num_steps)
    flatten = DataCollatorWithFlattening()

    def batch_of(items: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        documents = [document for sequence in batches[items[0]["number"]] for document in sequence]
        if "flat" in way:
            return flatten([{"input_ids": document.tolist()} for document in documents])
        if "across" in way:
            rows = [np.concatenate(sequence) for sequence in batches[items[0]["number"]]]
            length = shape.length
        else:
            rows, length = documents, max(map(len, documents))
        ids = torch.full((len(rows), length), PAD)
        for row, tokens in zip(ids, rows, strict=True):
            row[: len(tokens)] = torch.from_numpy(tokens)
        return {"input_ids": ids, "attention_mask": (ids != PAD).long(), "labels": ids.masked_fill(ids == PAD, IGNORED)}

    times: list[tuple[float, float]] = []

    class Clock(TrainerCallback):
        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            if device.type == "cuda":
                torch.cuda.synchronize()
            times.append(now())

    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            max_steps=num_steps,
            per_device_train_batch_size=1,
            bf16=True,
            use_cpu=device.type == "cpu",
            optim="adamw_torch_fused",
            weight_decay=0.1,
            max_grad_norm=1.0,
            torch_compile="compiled" in way,
            remove_unused_columns=False,
            report_to="none",
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
        )
        items: Any = [{"number": number} for number in range(num_steps)]
        model = shape.model(device)
        if device.type == "cuda":
            model.gradient_checkpointing_enable()
        one = Trainer(model, arguments, batch_of, items, callbacks=[Clock()])
        one.train()
    yield from times


def measure(name: str, way: str, num_steps: int) -> dict[str, float]:
    """One way in this process: seconds a step (medians after the warm-up), of the warm-up, peak GB."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    shape = SHAPES[name]
    started = time.perf_counter()
    times = list((ours if way.startswith("ours") else trainer)(shape, way, num_steps + WARM_UP, device))
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    if device.type == "cuda":
        memory = torch.cuda.max_memory_allocated()
    clock, processor = np.array(times)[WARM_UP - 1 :].T
    return {
        "step_s": statistics.median(np.diff(clock).tolist()),
        "cpu_s": statistics.median(np.diff(processor).tolist()),
        "warm_up_s": clock[0] - started,
        "peak_gb": memory / 1e9,
    }


def table(name: str, ways: list[str], num_steps: int, repeats: int, threads: int) -> dict[str, Any]:
    """All ways in turn, each in a process of its own; medians over the repeats."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    shape = SHAPES[name]
    batches = shape.documents(num_steps + WARM_UP)[WARM_UP:]
    made = [collate([pack([Piece(d, 0) for d in s], shape.length, PAD, False) for s in batch]) for batch in batches]
    tokens = statistics.mean(int((batch["segments"] > 0).sum()) for batch in made)
    pairs = statistics.mean(int(visible_pairs(batch)) for batch in made)
    with torch.device("meta"):
        model = shape.model(torch.device("meta"))
    flops = TokenCost.of(model).train_flops(tokens, pairs)
    peak = peak_flops(device, torch.bfloat16)
    found: dict[str, list[dict[str, float]]] = {way: [] for way in ways}
    for _ in range(repeats):
        for way in ways:
            command = [sys.executable, "-m", "benchmarks.train_step", "--shape", name, "--only", way]
            command += ["--steps", str(num_steps), "--threads", str(threads)]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            found[way].append(json.loads(done.stdout.splitlines()[-1]))
    rows = []
    for way, runs in found.items():
        row = {key: statistics.median(run[key] for run in runs) for key in runs[0]}
        rate = tokens / row["step_s"]
        rows.append({"way": way, "tokens_per_s": rate, "mfu": flops / row["step_s"] / peak, **row})
    return {
        "shape": name,
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
        "parameters": sum(p.numel() for p in model.parameters()),
        "tokens_per_step": tokens,
        "flops_per_step": flops,
        "peak_flops": peak,
        "rows": rows,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="tiny")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, help="write the figures as JSON")
    parser.add_argument("--only", choices=WAYS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.only:
        print(json.dumps(measure(options.shape, options.only, options.steps)))
        return
    if importlib.util.find_spec("accelerate") is None:
        print("the Trainer's ways are left out: pip install accelerate==1.15.0 (in a folder of its own on PYTHONPATH)")
        options.ways = [way for way in options.ways if way.startswith("ours")]
    found = table(options.shape, options.ways, options.steps, options.repeats, options.threads)
    print(
        f"{found['shape']}: {found['parameters'] / 1e6:.1f}M parameters, {found['tokens_per_step']:.0f} real tokens, "
        f"{found['flops_per_step'] / 1e9:.0f} GFLOP a step, {found['device']}, {options.threads} threads, peak "
        f"{found['peak_flops'] / 1e12:.2f} TFLOP/s"
    )
    print(
        f"{'way':28s}{'tokens/s':>10s}{'MFU':>7s}{'step (s)':>10s}{'CPU (s)':>9s}{'warm-up (s)':>13s}{'peak (GB)':>11s}"
    )
    for row in found["rows"]:
        print(
            f"{row['way']:28s}{row['tokens_per_s']:10.0f}{row['mfu']:7.1%}{row['step_s']:10.3f}"
            f"{row['cpu_s']:9.3f}{row['warm_up_s']:13.1f}{row['peak_gb']:11.2f}"
        )
    if found["device"] == "cpu":
        print("not measured on a GPU")
    if options.out:
        options.out.write_text(json.dumps({**found, "threads": options.threads}, indent=1) + "\n")


if __name__ == "__main__":
    main()

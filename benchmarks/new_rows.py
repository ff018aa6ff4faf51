"""How should the rows of new speech tokens start when a text LM becomes a speech-text LM?

    python -m benchmarks.new_rows [--data data] [--tied] [--seeds 2] [--threads 1] [--out new_rows.json]

A small Llama is trained on the collected texts alone, grown by the speech vocabulary (speech_lm.grown_model), and
trained on the sequences of `mix` in their order, once for every way to fill the new rows; only these differ. Reads
data/collect/texts and data/mix of a finished run of scale tiny. Losses are nats per token of held-out sequences of mix,
the text part of them included; `text` is the loss of their text labels alone. Mean over the seeds, and its half range.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from components.shared.causal_lm_module import optimizer_of
from components.shared.contracts import Text
from components.shared.lm_config import LmShapeConfig, OptimizerConfig, OptimizerKind
from components.shared.manifest import read_manifest, read_table
from components.shared.packed_attention import packed
from components.shared.packed_data import PackedData
from components.shared.packed_lm import PackedLM
from components.shared.packed_loader import PackedLoader
from components.shared.packing import Piece, best_fit, collate, pack
from components.shared.speech_lm import grown_model, random_model
from components.shared.tokens import Vocabulary, load_tokenizer
from components.shared.training import linear_schedule

BASE_STEPS, STEPS, SHOWN = 500, 150, (0, 20, 50, 150)
BATCH, CHUNK, HELD_OUT = 8, 512, 6
Fill = Callable[[torch.Tensor, int, torch.Generator], torch.Tensor]
Batch = dict[str, torch.Tensor]


def zeros(old: torch.Tensor, count: int, generator: torch.Generator) -> torch.Tensor:
    return old.new_zeros(count, old.shape[1])


def small(old: torch.Tensor, count: int, generator: torch.Generator) -> torch.Tensor:
    return 0.02 * torch.randn(count, old.shape[1], generator=generator)


def around_mean(spread: float) -> Fill:
    """The mean of the old rows and noise of this many times their spread in every dimension."""

    def fill(old: torch.Tensor, count: int, generator: torch.Generator) -> torch.Tensor:
        return old.mean(0) + spread * old.std(0) * torch.randn(count, old.shape[1], generator=generator)

    return fill


WAYS: dict[str, tuple[Fill, Fill]] = {
    "zeros": (zeros, zeros),
    "N(0, 0.02)": (small, small),
    "mean": (around_mean(0), around_mean(0)),
    "mean + 0.1 spread": (around_mean(0.1), around_mean(0.1)),
    "mean + 1.0 spread": (around_mean(1.0), around_mean(1.0)),
    "embedding mean + 0.1, head N(0, 0.02)": (around_mean(0.1), small),
    "embedding N(0, 0.02), head mean + 0.1": (small, around_mean(0.1)),
    "embedding mean + 1.0, head mean": (around_mean(1.0), around_mean(0)),
}
"""How the embedding and the head are filled; with tied matrices only the ways that fill both alike."""


@dataclass(frozen=True)
class World:
    """What all runs share."""

    vocabulary: Vocabulary
    shape: LmShapeConfig
    texts: list[Batch]
    train: list[Batch]
    held_out: list[Batch]


def read(data: Path, tied: bool) -> World:
    """Texts and sequences of a finished run."""
    tokenizer = load_tokenizer(data / "mix" / "tokenizer")
    vocabulary = Vocabulary.of(tokenizer, int(read_manifest(data / "mix" / "tokenizer").extra["num_codes"]))
    train = PackedData(data / "mix" / "shards", "train")
    validation = PackedData(data / "mix" / "shards", "validation")
    written = [row.text for row in read_table(data / "collect" / "texts", Text) if row.split == "train"]
    length = train.sequence_length
    documents = [[*tokenizer.encode(text), vocabulary.end_of_text][:length] for text in written]
    pieces = [Piece(np.array(document), 0) for document in documents]
    bins = best_fit(np.array([len(document) for document in documents]), length)
    order = np.random.default_rng(0).permutation(len(bins))
    sequences = [pack([pieces[i] for i in bins[n]], length, vocabulary.pad, False) for n in order]
    shape = LmShapeConfig(
        hidden_size=192,
        feed_forward_size=576,
        num_layers=4,
        num_heads=3,
        num_key_value_heads=3,
        rope_theta=10000.0,
        init_std=0.02,
        tied=tied,
        pad_vocabulary_to=64,
    )
    return World(
        vocabulary,
        shape,
        [collate(sequences[i : i + BATCH]) for i in range(0, len(sequences) - BATCH, BATCH)],
        list(PackedLoader(train, BATCH, STEPS, False)),
        list(PackedLoader(validation, BATCH, min(HELD_OUT, len(validation) // BATCH), False)),
    )


def steps(lm: PackedLM, batches: list[Batch], peak_lr: float, told: Callable[[int], None]) -> None:
    """AdamW under the linear schedule, as `pretrain` trains; told: called before the first step and after each."""
    settings = OptimizerConfig(
        kind=OptimizerKind.adamw,
        peak_lr=peak_lr,
        final_lr=peak_lr / 10,
        warmup_steps=20,
        weight_decay=0.1,
        beta1=0.9,
        beta2=0.95,
    )
    optimizer = optimizer_of(lm.model, settings)
    factor = linear_schedule(peak_lr, settings.final_lr, settings.warmup_steps, len(batches))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    told(0)
    for number, batch in enumerate(batches, start=1):
        with torch.autocast("cpu", torch.bfloat16):
            loss, _, _ = lm(batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(lm.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        told(number)


@torch.no_grad()
def losses(lm: PackedLM, world: World) -> dict[str, float]:
    """Nats per held-out token, of all labels and of text labels."""
    sums = {"all": [0.0, 0], "text": [0.0, 0]}
    for batch in world.held_out:
        with torch.autocast("cpu", torch.bfloat16):
            _, nll, learnt = lm(batch)
        text = batch["labels"][learnt] < world.vocabulary.first_audio_id
        for name, part in (("all", nll), ("text", nll[text])):
            sums[name][0] += float(part.sum())
            sums[name][1] += len(part)
    return {name: total / count for name, (total, count) in sums.items()}


def run(world: World, seed: int, folder: Path) -> dict[str, dict[int, dict[str, float]]]:
    """Losses of every way at the steps of SHOWN, from one base of this seed."""
    v = world.vocabulary
    text_only = Vocabulary(**{**vars(v), "size": v.end_of_text + 1})  # the base knows its texts and their end
    base = random_model(world.shape, text_only, 1024, seed)
    lm = PackedLM(base, num_real=text_only.size, chunk=CHUNK)
    with packed(base):
        steps(lm, list(islice(cycle(world.texts), BASE_STEPS)), 3e-3, lambda number: None)
    base.save_pretrained(folder)
    found: dict[str, dict[int, dict[str, float]]] = {}
    for way, fills in WAYS.items():
        if world.shape.tied and way.startswith("embedding"):
            continue
        model = grown_model(str(folder), v, text_only.size, 64, seed)
        matrices = [model.get_input_embeddings().weight, model.get_output_embeddings().weight]
        generator = torch.Generator().manual_seed(seed)
        for matrix, fill in list(zip(matrices, fills, strict=True))[: 1 if world.shape.tied else 2]:
            with torch.no_grad():
                matrix[text_only.size :] = fill(matrix[: text_only.size], len(matrix) - text_only.size, generator)
        grown = PackedLM(model, num_real=v.size, chunk=CHUNK)
        curve: dict[int, dict[str, float]] = {}

        def told(number: int, grown: PackedLM = grown, curve: dict[int, Any] = curve) -> None:
            if number in SHOWN:
                curve[number] = losses(grown, world)

        with packed(model):
            steps(grown, world.train, 1e-3, told)
        found[way] = curve
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--tied", action="store_true")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, help="write the figures as JSON")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    world = read(options.data, options.tied)
    runs = []
    for seed in range(options.seeds):
        with tempfile.TemporaryDirectory() as folder:
            runs.append(run(world, seed, Path(folder)))
    print(f"{'new rows':40s}" + "".join(f"{f'all, {n}':>16s}" for n in SHOWN) + f"{f'text, {SHOWN[-1]}':>16s}")
    for way in runs[0]:
        cells = [[one[way][n]["all"] for one in runs] for n in SHOWN] + [[one[way][SHOWN[-1]]["text"] for one in runs]]
        shown = (f"{statistics.mean(c):.3f} ± {(max(c) - min(c)) / 2:.3f}" for c in cells)
        print(f"{way:40s}" + "".join(f"{cell:>16s}" for cell in shown))
    if options.out:
        what = {"tied": options.tied, "base_steps": BASE_STEPS, "runs": runs}
        options.out.write_text(json.dumps(what, indent=1) + "\n")


if __name__ == "__main__":
    main()

"""What pre-training costs before it is begun: tokens, steps, GPU hours, memory a GPU, checkpoints, storage, reading.

    python -m components.pretrain.plan [--scale h800] [--nodes 8] [--gpus-per-node 8] [--gpu-memory-gb 80]
                                       [--tokens 1e12] [--rates FILE] [pretrain.batch_sequences=... ...]

Arithmetic on the settings of a scale and on rates, each with its source; docs/scale.md shows it. What does not fit is
refused in one line that names what to change, with exit code 2.
"""

from __future__ import annotations

import argparse
import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components import config as whole
from components.pretrain.config import PretrainConfig
from components.pretrain.footprint import BYTES, Footprint, footprint, meta_model
from components.shared.lm_config import OptimizerKind
from components.shared.rates import RATES, Rates, count, hours, size

SHARD_BYTES_PER_TOKEN = 4
"""mix writes uint32."""


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """The machines."""

    nodes: int
    gpus_per_node: int
    gpu_memory_gb: float
    """Of one GPU, in 1e9 bytes."""

    @property
    def gpus(self) -> int:
        """In all; one rank each."""
        return self.nodes * self.gpus_per_node


@dataclass(frozen=True, kw_only=True)
class Run:
    """One pass over the tokens."""

    tokens: float
    """Without padding."""
    sequence_length: int
    sequences: float
    steps: int
    sequences_per_step: int
    sequences_per_pass: int
    """Of one GPU in one forward pass."""


@dataclass(frozen=True, kw_only=True)
class Arithmetic:
    """What the model costs."""

    parameters: int
    flops_per_token: float
    gpu_hours: float
    days: float
    tokens_per_s: float
    """Of the whole cluster."""


@dataclass(frozen=True, kw_only=True)
class Checkpoints:
    """Weights and the optimizer's numbers on disk."""

    size: float
    kept: int
    write_s: float
    """While training goes on."""
    pause_s: float
    """While it stands: the copy to host memory."""
    every_s: float
    """Of training between two."""
    pause_share: float
    lost_hours: float
    """Of the cluster, expected in the whole run, by interruptions."""
    interruptions: float


def sources(config: whole.Config, tokens: float, rates: Rates) -> dict[str, float]:
    """Tokens of each source: text's share is fixed, speech and pairs have their shares, interleaved is the rest.

    Raises ValueError when nothing is left for interleaved data.
    """
    text = config.mix.text_share
    speech, pairs = (rates.of("pretrain", "shares", name) for name in ("speech", "pairs"))
    rest = 1 - text - speech - pairs
    if rest < 0:
        raise ValueError(f"mix.text_share: got {text}, but with speech {speech} and pairs {pairs} that is more than 1")
    shares = {"text": text, "speech": speech, "pairs": pairs, "interleaved": rest}
    return {name: tokens * share for name, share in shares.items()}


def run_of(config: whole.Config, tokens: float, cluster: Cluster, rates: Rates) -> Run:
    """Sequences and steps. Raises ValueError for a batch that ranks cannot share or steps that the tokens lack."""
    settings, length = config.pretrain, config.mix.sequence_length
    if settings.batch_sequences % cluster.gpus:
        below = settings.batch_sequences // cluster.gpus * cluster.gpus or cluster.gpus
        raise ValueError(
            f"pretrain.batch_sequences: got {settings.batch_sequences}, wanted a multiple of the {cluster.gpus} GPUs "
            f"that share a batch, such as {below}"
        )
    per_step = settings.batch_sequences * settings.trainer.accumulate_batches
    sequences = tokens / (length * (1 - rates.of("pretrain", "padding_share")))
    steps = math.ceil(sequences / per_step)
    if settings.trainer.num_steps > steps:
        raise ValueError(
            f"pretrain.trainer.num_steps: got {settings.trainer.num_steps}, but {count(tokens)} tokens are {steps:,} "
            f"steps of {per_step} sequences; lower it or raise --tokens and mix.total_tokens"
        )
    if settings.optimizer.warmup_steps >= (settings.trainer.num_steps or steps):
        raise ValueError(
            f"pretrain.optimizer.warmup_steps: got {settings.optimizer.warmup_steps}, wanted fewer than the "
            f"{settings.trainer.num_steps or steps} steps"
        )
    share = (settings.trainer.num_steps or steps) / steps
    return Run(
        tokens=tokens * share,
        sequence_length=length,
        sequences=sequences * share,
        steps=settings.trainer.num_steps or steps,
        sequences_per_step=per_step,
        sequences_per_pass=settings.batch_sequences // cluster.gpus,
    )


def arithmetic(config: whole.Config, run: Run, model: Any, cluster: Cluster, rates: Rates) -> Arithmetic:
    """FLOPs and hours."""
    from components.shared.flops import TokenCost

    half = run.sequence_length / 2
    visible = half if config.pretrain.attend_across else min(rates.of("pretrain", "visible_tokens"), half)
    flops = TokenCost.of(model).train_flops(1.0, visible)
    seconds = run.tokens * flops / (rates.of("pretrain", "mfu") * rates.of("pretrain", "peak_flops"))
    return Arithmetic(
        parameters=sum(p.numel() for p in model.parameters()),
        flops_per_token=flops,
        gpu_hours=seconds / 3600,
        days=seconds / cluster.gpus / 86400,
        tokens_per_s=run.tokens * cluster.gpus / seconds,
    )


def checkpoints(settings: PretrainConfig, run: Run, cost: Arithmetic, cluster: Cluster, rates: Rates) -> Checkpoints:
    """Sizes, and what saving every so many steps costs and what an interruption loses."""
    numbers = 3 if settings.optimizer.kind is OptimizerKind.adamw else 2
    bytes_ = float(cost.parameters * BYTES[settings.trainer.precision] * numbers)
    trainer = settings.trainer
    last, every = trainer.keep_last, trainer.keep_every_steps
    step_s = cost.days * 86400 / run.steps
    every_s = trainer.checkpoint_every_steps * step_s
    pause = bytes_ / cluster.gpus / rates.of("pretrain", "copy_bytes_per_gpu_s")
    interruptions = cost.gpu_hours * rates.of("pretrain", "failures_per_gpu_hour")
    write_s = bytes_ / cluster.nodes / rates.of("pretrain", "write_bytes_s")
    lost_s = every_s / 2 + write_s + rates.of("pretrain", "restart_s")
    return Checkpoints(
        size=bytes_,
        kept=last + 1 + (run.steps // every if every else 0),
        write_s=write_s,
        pause_s=pause,
        every_s=every_s,
        pause_share=pause / every_s,
        lost_hours=interruptions * lost_s / 3600,
        interruptions=interruptions,
    )


def check_memory(config: whole.Config, model: Any, run: Run, cluster: Cluster, rates: Rates) -> Footprint:
    """What a GPU holds. Raises ValueError, naming the largest batch that fits, when that is more than it has."""

    def of(sequences: int) -> Footprint:
        return footprint(config.pretrain, model, sequences * run.sequence_length, cluster.gpus, rates)

    room = cluster.gpu_memory_gb * 1e9
    found = of(run.sequences_per_pass)
    if found.total <= room:
        return found
    per_step = run.sequences_per_step
    smaller = (n for n in range(run.sequences_per_pass - 1, 0, -1) if per_step % (n * cluster.gpus) == 0)
    fitting = next((n * cluster.gpus for n in smaller if of(n).total <= room), 0)
    change = "set pretrain.compute.kept=inputs or take more GPUs"
    if fitting:
        change = f"set pretrain.batch_sequences={fitting} pretrain.trainer.accumulate_batches={per_step // fitting}"
    raise ValueError(
        f"memory: a GPU needs {found.total / 1e9:.1f} GB for {run.sequences_per_pass} sequences at a time and has "
        f"{cluster.gpu_memory_gb:g} GB; {change}"
    )


def check_writing(settings: PretrainConfig, saved: Checkpoints) -> None:
    """Raise ValueError when a checkpoint is not written before the next one is due."""
    if saved.write_s > saved.every_s:
        raise ValueError(
            f"pretrain.trainer.checkpoint_every_steps: got {settings.trainer.checkpoint_every_steps}, which are "
            f"{saved.every_s:.3g} s of training, but writing a checkpoint takes {saved.write_s:.3g} s; raise it"
        )


def report(config: whole.Config, tokens: float, cluster: Cluster, rates: Rates) -> str:
    """The plan as Markdown. Raises ValueError for what does not fit."""
    settings = config.pretrain
    run = run_of(config, tokens, cluster, rates)
    model = meta_model(settings.base, settings.shape, config.speech_tokenizer.num_codes, config.mix.vocab_size)
    cost = arithmetic(config, run, model, cluster, rates)
    memory = check_memory(config, model, run, cluster, rates)
    saved = checkpoints(settings, run, cost, cluster, rates)
    check_writing(settings, saved)
    shards = tokens * SHARD_BYTES_PER_TOKEN
    stored = shards + saved.kept * saved.size
    own = cost.tokens_per_s / cluster.nodes * SHARD_BYTES_PER_TOKEN
    step_tokens = run.sequences_per_step * run.sequence_length
    kept = settings.compute.kept.value
    rows = [
        ("model", settings.base or "random start"),
        ("parameters, speech tokens included", f"{cost.parameters:,}"),
        ("sequences", f"{run.sequences:,.0f} of {run.sequence_length:,} tokens"),
        ("steps", f"{run.steps:,} of {run.sequences_per_step} sequences, {count(step_tokens)} tokens"),
        (
            "a GPU at a time",
            f"{run.sequences_per_pass} sequences, {settings.trainer.accumulate_batches} times a step",
        ),
        ("FLOPs a token", f"{cost.flops_per_token / 1e9:.1f}G"),
        (f"GPU hours at MFU {rates.of('pretrain', 'mfu'):.0%}", hours(cost.gpu_hours)),
        (
            f"days on {cluster.gpus} GPUs",
            f"{cost.days:.1f}, {count(cost.tokens_per_s)} tokens a second, "
            f"{cost.days * 86400 / run.steps:.1f} s a step",
        ),
        ("reading", f"{own / 1e6:.2f} MB a second and node"),
        ("a checkpoint", f"{size(saved.size)}, written in {saved.write_s:.0f} s while training goes on"),
        (
            f"a checkpoint every {settings.trainer.checkpoint_every_steps} steps",
            f"every {saved.every_s / 60:.0f} minutes; training stands {saved.pause_s:.1f} s, {saved.pause_share:.2%}",
        ),
        (
            "interruptions expected",
            f"{saved.interruptions:.1f}, which lose {saved.lost_hours:.1f} hours of the cluster",
        ),
        ("checkpoints on disk", f"{saved.kept}, {size(saved.kept * saved.size)}"),
        ("storage with mix's shards", f"{size(shards)} + {size(saved.kept * saved.size)} = {size(stored)}"),
    ]
    lines = ["| source | tokens | share | hours of speech |", "|---|---|---|---|"]
    for name, value in sources(config, run.tokens, rates).items():
        spoken = f"{count(value / config.speech_tokenizer.tokens_per_s / 3600)}" if name == "speech" else ""
        lines.append(f"| {name} | {count(value)} | {value / run.tokens:.2%} | {spoken} |")
    lines += [f"| in all | {count(run.tokens)} | | |", "", "| what | how much |", "|---|---|"]
    lines += [f"| {name} | {value} |" for name, value in rows]
    lines += ["", f"| memory of a GPU | of {cluster.gpu_memory_gb:g} GB |", "|---|---|"]
    lines += [f"| {name} | {value / 1e9:.1f} GB |" for name, value in _moment(memory, kept)]
    lines += [f"| in all | {memory.total / 1e9:.1f} GB |"]
    return "\n".join(lines)


def _moment(memory: Footprint, kept: str) -> list[tuple[str, float]]:
    """The rows of the moment that counts."""
    rows = [
        ("weights, gradients, optimizer: this GPU's part", memory.states),
        ("weights in bfloat16 while they are used", memory.gathered),
    ]
    if memory.exchange > memory.held + memory.again + memory.loss:
        rows.append(("gradients of embedding and head, exchanged", memory.exchange))
    else:
        rows.append((f"held of the forward pass ({kept})", memory.held))
        rows.append(("one layer computed again", memory.again))
        rows.append(("loss: logits of a chunk, gradient of the head", memory.loss))
    return [*rows, ("driver, communication, margin", memory.margin)]


def main(arguments: list[str]) -> None:
    """Print the plan."""
    parser = argparse.ArgumentParser(prog="python -m components.pretrain.plan", description=__doc__.splitlines()[0])
    parser.add_argument("overrides", nargs="*", help="such as pretrain.batch_sequences=128")
    parser.add_argument("--scale", default="h800", help="whose settings are taken")
    parser.add_argument("--nodes", type=int, default=8)
    parser.add_argument("--gpus-per-node", type=int, default=8)
    parser.add_argument("--gpu-memory-gb", type=float, default=80.0, help="of one GPU, in 1e9 bytes")
    parser.add_argument("--tokens", type=float, default=0, help="of the whole run; by default mix.total_tokens")
    parser.add_argument("--rates", type=Path, default=RATES)
    options = parser.parse_args(arguments)
    config = whole.load_config([f"scale={options.scale}", *options.overrides])
    tokens = options.tokens or config.mix.total_tokens
    if not tokens > 0 or options.nodes < 1 or options.gpus_per_node < 1 or not options.gpu_memory_gb > 0:
        got = f"--tokens {tokens:g} --nodes {options.nodes} --gpus-per-node {options.gpus_per_node}"
        raise ValueError(f"got {got} --gpu-memory-gb {options.gpu_memory_gb:g}, wanted numbers above 0")
    cluster = Cluster(nodes=options.nodes, gpus_per_node=options.gpus_per_node, gpu_memory_gb=options.gpu_memory_gb)
    print(report(config, tokens, cluster, Rates(options.rates)))


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except ValueError as error:
        print(f"plan: {error}", file=sys.stderr)
        sys.exit(2)

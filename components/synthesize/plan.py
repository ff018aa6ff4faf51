"""What a run costs before it is begun: GPU hours, core hours, storage and days for a number of interleaved tokens.

    python -m components.synthesize.plan [--scale h800] [--tokens 6e11] [--gpus 64] [--cores 256] [--rates FILE]

Nothing but arithmetic on the settings of a scale and on measured rates, each with its source; docs/scale.md shows it.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

from components.config import load_config
from components.shared.rates import RATES, Rates, count, hours, size
from components.synthesize.config import SynthesizeConfig


@dataclass(frozen=True, kw_only=True)
class Volume:
    """What one language contributes."""

    language: str
    tokens: float
    """Of the documents, speech and text together."""
    speech_tokens: float
    units: float
    """Words, or characters in Chinese."""
    text_bytes: float
    documents: float


@dataclass(frozen=True, kw_only=True)
class Step:
    """One step of the work."""

    name: str
    gpu_hours: float = 0.0
    core_hours: float = 0.0
    stored_bytes: float = 0.0


def volumes(config: SynthesizeConfig, tokens: float, rates: Rates) -> list[Volume]:
    """Text that a number of interleaved tokens is made of, by language."""
    found = []
    total_share = sum(config.language_shares.values())
    for language, share in config.language_shares.items():
        speech = config.ratio * rates.of("languages", language, "speech_tokens_per_unit")
        text = (1 - config.ratio) * rates.of("languages", language, "text_tokens_per_unit")
        own = tokens * share / total_share
        units = own / (speech + text)
        found.append(
            Volume(
                language=language,
                tokens=own,
                speech_tokens=units * speech,
                units=units,
                text_bytes=units * rates.of("languages", language, "bytes_per_unit"),
                documents=units / rates.of("languages", language, "units_per_document"),
            )
        )
    return found


def steps(config: SynthesizeConfig, found: list[Volume], rates: Rates) -> list[Step]:
    """The work in its order."""
    tokens = sum(volume.tokens for volume in found)
    text_bytes = sum(volume.text_bytes for volume in found)
    generated = sum(volume.speech_tokens for volume in found) * (1 + rates.of("said_again_share"))
    shards = sum(volume.documents for volume in found) / config.documents_per_shard
    return [
        Step(
            name="collect: read, clean, remove repeats",
            core_hours=text_bytes / rates.of("collected_bytes_per_core_s") / 3600,
            stored_bytes=text_bytes * rates.of("text_compression"),
        ),
        Step(name="synthesize: survey", core_hours=tokens / rates.of("surveyed_per_core_s") / 3600),
        Step(name="synthesize: speech tokens", gpu_hours=generated / rates.of("generated_per_gpu_s") / 3600),
        Step(
            name="synthesize: spans, rows, files",
            core_hours=tokens / rates.of("interleaved_per_core_s") / 3600,
            stored_bytes=tokens * rates.of("interleaved_bytes_per_token"),
        ),
        Step(
            name="synthesize: hearing a sample",
            gpu_hours=shards * config.heard_per_shard / rates.of("heard_per_gpu_s") / 3600,
        ),
        Step(name="mix: packed tokens", stored_bytes=tokens * rates.of("packed_bytes_per_token")),
    ]


def report(config: SynthesizeConfig, tokens: float, gpus: int, cores: int, rates: Rates) -> str:
    """The plan as Markdown: the text that is needed, the steps, and how long they take."""
    found = volumes(config, tokens, rates)
    work = steps(config, found, rates)
    gpu_hours, core_hours = sum(step.gpu_hours for step in work), sum(step.core_hours for step in work)
    lines = [
        f"{tokens:,.0f} interleaved tokens; {config.ratio:.0%} of the words are speech",
        "",
        "| language | tokens | of them speech | hours of speech | words or characters | text |",
        "|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {volume.language} | {count(volume.tokens)} | {count(volume.speech_tokens)} | "
        f"{count(volume.speech_tokens / 12.5 / 3600)} | {count(volume.units)} | {size(volume.text_bytes)} |"
        for volume in found
    ]
    lines += ["", "| step | GPU hours | core hours | stored |", "|---|---|---|---|"]
    lines += [
        f"| {step.name} | {hours(step.gpu_hours)} | {hours(step.core_hours)} | {size(step.stored_bytes)} |"
        for step in work
    ]
    stored = sum(step.stored_bytes for step in work)
    lines += [
        f"| in all | {hours(gpu_hours)} | {hours(core_hours)} | {size(stored)} |",
        "",
        f"On {gpus} GPUs and {cores} cores: {gpu_hours / gpus / 24:.1f} days of GPUs, {core_hours / cores / 24:.1f} "
        "days of cores; the two overlap but for the survey and the collecting.",
    ]
    return "\n".join(lines)


def main(arguments: list[str]) -> None:
    """Print the plan."""
    parser = argparse.ArgumentParser(prog="python -m components.synthesize.plan", description=__doc__.splitlines()[0])
    parser.add_argument("--scale", default="h800", help="whose shares, spans and shards are taken")
    parser.add_argument("--tokens", type=float, default=0, help="interleaved tokens; by default the scale's target")
    parser.add_argument("--gpus", type=int, default=64)
    parser.add_argument("--cores", type=int, default=256)
    parser.add_argument("--rates", type=Path, default=RATES)
    options = parser.parse_args(arguments)
    config = load_config([f"scale={options.scale}"]).synthesize
    tokens = options.tokens or config.target_tokens
    if not tokens > 0 or options.gpus < 1 or options.cores < 1:
        got = f"--tokens {tokens:g} --gpus {options.gpus} --cores {options.cores}"
        raise ValueError(f"got {got}, wanted numbers above 0")
    print(report(config, tokens, options.gpus, options.cores, Rates(options.rates)))


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except ValueError as error:
        print(f"plan: {error}", file=sys.stderr)
        sys.exit(2)

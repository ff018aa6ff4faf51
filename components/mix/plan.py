"""The planner: the paper's rule as a budget in tokens for every source, or a refusal that says what to change."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from components.mix.config import FILLER, MixConfig, sources_of

FIXED = ("speech", "asr", "tts", "interleaved")
"""Sources whose epochs may be fixed."""
_ROWS = {
    "text": "row of collect/texts",
    "speech": "row of tokenize/tokens without text",
    "asr": "row of tokenize/tokens with text",
    "tts": "row of tokenize/tokens with text",
    "interleaved": "row of synthesize/interleaved",
    FILLER: "row of collect/texts of these corpora",
}


@dataclass(frozen=True, kw_only=True)
class Budget:
    """What one source gives to pre-training."""

    source: str
    rule: str
    """What its size follows from, in words."""
    available: int
    """Tokens of one epoch."""
    planned: int
    """Tokens that pre-training reads."""
    max_epochs: float
    """How often its documents may be seen."""

    @property
    def epochs(self) -> float:
        """How often the source is seen."""
        return self.planned / self.available if self.available else 0.0


def check(config: MixConfig) -> None:
    """Refuse what no data could meet, before any is read. Raises ValueError, naming the key."""
    epochs = [(f"epochs.{name}", value) for name, value in vars(config.epochs).items() if value is not None]
    limits = [(f"max_epochs.{name}", value) for name, value in vars(config.max_epochs).items()]
    at_least: list[tuple[str, float, float]] = [
        ("total_tokens", config.total_tokens, 1),
        ("sequence_length", config.sequence_length, 2),
        ("window_sequences", config.window_sequences, 1),
        ("validation_tokens", config.validation_tokens, 0),
        ("shuffle_shards", config.shuffle_shards, 0),
        *((key, value, 0) for key, value in epochs + limits),
    ]
    for key, value, least in at_least:
        if not (math.isfinite(value) and value >= least):
            raise ValueError(f"mix.{key}: got {value}, wanted at least {least}")
    for key in ("text_share", "spoken_share", "held_out_share"):
        if not 0 <= getattr(config, key) <= 1:
            raise ValueError(f"mix.{key}: got {getattr(config, key)}, wanted 0..1")
    for name in FIXED:
        wanted, allowed = getattr(config.epochs, name), getattr(config.max_epochs, name)
        if wanted is not None and wanted > allowed:
            raise ValueError(f"mix.epochs.{name}: got {wanted}, but mix.max_epochs.{name} allows {allowed}; raise it")
    if config.filler and config.epochs.interleaved is None:
        raise ValueError(
            f"mix.filler: got {list(config.filler)}, but interleaved documents fill the rest (mix.epochs.interleaved "
            "is null); give them a number of epochs, or empty mix.filler"
        )


def plan(config: MixConfig, available: dict[str, int]) -> list[Budget]:
    """Budgets of all sources of the run, in their order.

    available: tokens of one epoch of each source.
    Raises ValueError, naming the key to change, when the total cannot be met as the config allows.
    """
    names, total = sources_of(config), config.total_tokens
    rest = "interleaved" if config.epochs.interleaved is None else FILLER
    epochs: dict[str, float] = {name: getattr(config.epochs, name) for name in FIXED if name != rest}
    for name, count in epochs.items():
        if count and not available[name]:
            raise ValueError(
                f"mix.epochs.{name}: got {count}, but there is no {_ROWS[name]} to train on; "
                f"mix.epochs.{name}=0 leaves the source out"
            )
    planned = {"text": round(total * config.text_share)}
    planned |= {name: round(available[name] * count) for name, count in epochs.items()}
    left = total - sum(planned.values())
    if left < 0:
        raise ValueError(
            f"mix.total_tokens: got {total}, but mix.text_share and mix.epochs need {total - left} ({planned}); "
            "raise it, or lower mix.text_share or mix.epochs"
        )
    if left and rest not in names:
        raise ValueError(
            f"mix.filler: got [], but with mix.epochs.interleaved={config.epochs.interleaved} {left} of {total} tokens "
            "are left to fill; name corpora of texts, or set mix.epochs.interleaved=null"
        )
    planned[rest] = left
    rules = {"text": f"{config.text_share:.0%} of all", rest: "the rest"}
    rules |= {name: f"{count:g} epoch{'' if count == 1 else 's'}" for name, count in epochs.items()}
    return [_budget(config, name, rules[name], available[name], planned[name]) for name in names]


def _budget(config: MixConfig, name: str, rule: str, available: int, planned: int) -> Budget:
    allowed = getattr(config.max_epochs, name)
    if planned and not available:
        ways = {
            "text": "mix.text_share=0 leaves the source out",
            "interleaved": "mix.epochs.interleaved=0 leaves the source out, and mix.filler names what fills the rest",
            FILLER: f"name other corpora than {list(config.filler)} in mix.filler",
        }
        raise ValueError(f"mix: {planned} tokens of {name} are planned, but there is no {_ROWS[name]}; {ways[name]}")
    if planned > allowed * available:
        raise ValueError(
            f"mix.max_epochs.{name}: got {allowed}, but the plan needs {planned / available:.2f} epochs of {name} "
            f"({planned} tokens of {available}); raise it, lower mix.total_tokens or make more of it"
        )
    return Budget(source=name, rule=rule, available=available, planned=planned, max_epochs=allowed)


def describe(budgets: list[Budget], seen: dict[str, Any]) -> str:
    """The plan and what came of it, one line a source; seen: source -> achieved.Seen of the finished schedule."""
    total = max(1, sum(budget.planned for budget in budgets))
    total_seen = max(1, sum(one.tokens for one in seen.values()))
    header = f"{'source':<12}{'rule':<13}{'documents':>14}{'one epoch':>18}{'planned':>20}{'epochs':>8}{'share':>9}"
    lines = [header + f"{'achieved':>10}{'each seen':>11}{'repeats':>14}"]
    for b in budgets:
        one = seen[b.source]
        times = f"{one.least}" if one.least == one.most else f"{one.least}-{one.most}"
        lines.append(
            f"{b.source:<12}{b.rule:<13}{one.documents:>14,}{b.available:>18,}{b.planned:>20,}{b.epochs:>8.2f}"
            f"{b.planned / total:>9.2%}{one.tokens / total_seen:>10.2%}{times:>11}{one.repeats:>14,}"
        )
    return "\n".join(lines)

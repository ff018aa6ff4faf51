"""The planner: the paper's rule as a budget in tokens for every source, or a refusal that says what is missing."""

from __future__ import annotations

from dataclasses import dataclass

from components.mix.config import MixConfig


@dataclass(frozen=True, kw_only=True)
class Budget:
    """What one source gives to pre-training."""

    source: str
    available: int
    """Tokens of one epoch."""
    planned: int
    """Tokens that pre-training reads."""

    @property
    def epochs(self) -> float:
        """How often the source is seen."""
        return self.planned / self.available if self.available else 0.0


def plan(config: MixConfig, available: dict[str, int]) -> list[Budget]:
    """Budgets of all sources, in the order of `available`.

    available: tokens of one epoch of text, speech, asr, tts and interleaved.
    Raises ValueError, naming the key to change, when the total cannot be met as the config allows.
    """
    total = config.total_tokens
    fixed = {name: getattr(config.epochs, name) for name in ("speech", "asr", "tts")}
    planned = {name: round(available[name] * epochs) for name, epochs in fixed.items()}
    planned["text"] = round(total * config.text_share)
    planned["interleaved"] = total - sum(planned.values())
    if planned["interleaved"] < 0:
        needed = {name: planned[name] for name in ("text", *fixed)}
        raise ValueError(
            f"mix.total_tokens: got {total}, but text_share and the fixed epochs need {sum(needed.values())} "
            f"({needed}); raise it, or lower mix.text_share or mix.epochs"
        )
    for name in ("text", "interleaved"):
        allowed = getattr(config.max_epochs, name)
        if planned[name] > allowed * available[name]:
            epochs = planned[name] / available[name] if available[name] else float("inf")
            raise ValueError(
                f"mix.max_epochs.{name}: got {allowed}, but the plan needs {epochs:.2f} epochs of {name} "
                f"({planned[name]} tokens of {available[name]}); raise it, lower mix.total_tokens or make more of it"
            )
    return [Budget(source=name, available=available[name], planned=planned[name]) for name in available]


def describe(budgets: list[Budget], achieved: dict[str, int]) -> str:
    """The plan and what came of it, one line a source."""
    total = max(1, sum(budget.planned for budget in budgets))
    total_achieved = max(1, sum(achieved.values()))
    lines = [f"{'source':<12}{'one epoch':>16}{'planned':>16}{'epochs':>8}{'share':>9}{'achieved':>10}"]
    for b in budgets:
        share, got = b.planned / total, achieved[b.source] / total_achieved
        lines.append(f"{b.source:<12}{b.available:>16,}{b.planned:>16,}{b.epochs:>8.2f}{share:>9.2%}{got:>10.2%}")
    return "\n".join(lines)

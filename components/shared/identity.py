"""Which settings make a run what it is, and which may change while it goes on."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from enum import Enum
from typing import Any

FREE = {"free": True}
"""Metadata of a field that changes how a run is carried out or watched, but not what it learns (but for rounding): such
as launchers, numbers of workers and threads, intervals. Unfinished runs go on when it has changed."""


def bound(settings: Any) -> Any:
    """What a run must not change and still be the same, as plain dicts and lists: all but the fields marked FREE."""
    if is_dataclass(settings):
        kept = [field.name for field in fields(settings) if not field.metadata.get("free")]
        return {name: bound(getattr(settings, name)) for name in kept}
    if isinstance(settings, dict):
        return {str(key): bound(value) for key, value in settings.items()}
    if isinstance(settings, (list, tuple)):
        return [bound(value) for value in settings]
    return settings.name if isinstance(settings, Enum) else settings


def differences(old: Any, new: Any, name: str = "") -> list[str]:
    """One phrase for each setting that differs: "optimizer.peak_lr was 0.001 and is 0.002"."""
    if isinstance(old, dict) and isinstance(new, dict):
        keys = [*old, *(key for key in new if key not in old)]
        pairs = [(f"{name}.{key}" if name else str(key), key) for key in keys]
        return [line for path, key in pairs for line in differences(old.get(key), new.get(key), path)]
    if old == new:
        return []
    return [f"{name} was {'not there' if old is None else old} and is {'not there' if new is None else new}"]

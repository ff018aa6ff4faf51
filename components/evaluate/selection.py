"""Which items are looked at: chosen by a hash, so that a grown corpus changes as few of them as possible."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import TypeVar

Item = TypeVar("Item")


def choose(items: Iterable[Item], num: int, *, seed: int, key: Callable[[Item], str]) -> list[Item]:
    """At most `num` items, those with the smallest hash of (seed, key), in the order of that hash."""
    return sorted(items, key=lambda item: hashlib.sha256(f"{seed}/{key(item)}".encode()).digest())[:num]


def choose_each(
    items: Iterable[Item], num: int, *, seed: int, key: Callable[[Item], str], group: Callable[[Item], str]
) -> list[Item]:
    """At most `num` items of every group, groups in sorted order."""
    groups: dict[str, list[Item]] = defaultdict(list)
    for item in items:
        groups[group(item)].append(item)
    return [item for name in sorted(groups) for item in choose(groups[name], num, seed=seed, key=key)]

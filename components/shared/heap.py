"""What glibc does with the memory of freed tensors on a CPU: for the whole process; nothing where there is no glibc.

By default it maps every large tensor afresh until it has learnt to keep them in a heap, which other shapes then tear to
pieces.
"""

from __future__ import annotations

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_MMAP_MAX = -1, -3, -4
"""Parameters of mallopt: free bytes at the heap's end that go back; size and number of tensors with a mapping each."""
_MAPPED_BYTES, _MAPPINGS = 4 * 2**20, 65_536
"""The second is glibc's default."""


def keep_memory() -> None:
    """Keep what tensors give back: training, whose shapes return.

    The kernel clears the pages of every new mapping: a fifth of a step of the tiny scale (docs/results.md).
    """
    _set({_M_MMAP_MAX: 0, _M_TRIM_THRESHOLD: 2**31 - 1})


def return_memory() -> None:
    """Return tensors of 4 MiB and more at once: encoding, whose batches have ever other shapes.

    Costs up to a tenth of the time; without it a worker with whisper-base grew from 0.8 to 1.2 GB in 0.8 h of speech.
    """
    _set({_M_MMAP_MAX: _MAPPINGS, _M_MMAP_THRESHOLD: _MAPPED_BYTES})


def _set(values: dict[int, int]) -> None:
    if sys.platform.startswith("linux") and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        for parameter, value in values.items():
            libc.mallopt(parameter, value)

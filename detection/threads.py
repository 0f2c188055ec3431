"""Torch's threads beside ultralytics, which sets them for the whole process.

Ultralytics (8.4.190) sets ``OMP_NUM_THREADS`` to 1 at its import where nobody has set it, and at a model's first
prediction on a CPU lets torch have one thread fewer than there are cores. On two cores whatever computes beside the
detector has one left, an enhancer in front of it too.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch

# As they are before our own import of ultralytics.
_ASKED = "OMP_NUM_THREADS" in os.environ and "ultralytics" not in sys.modules
_AT_IMPORT = torch.get_num_threads()


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def free_threads(taken: int) -> int:
    """Threads that torch is to have outside ultralytics.

    As many as somebody asked torch for, by ``OMP_NUM_THREADS`` or `torch.set_num_threads`; all cores where the number
    is ultralytics' doing.

    Args:
        taken: what ultralytics sets.
    """
    now = torch.get_num_threads()
    if now not in (_AT_IMPORT, taken):
        return now
    return _AT_IMPORT if _ASKED or _AT_IMPORT > 1 else cores()


@contextmanager
def threads(number: int) -> Iterator[None]:
    """Let torch have ``number`` threads, and afterwards those it had, whoever has set others in between."""
    before = torch.get_num_threads()
    if number != before:
        torch.set_num_threads(number)
    try:
        yield
    finally:
        if torch.get_num_threads() != before:
            torch.set_num_threads(before)

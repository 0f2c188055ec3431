"""Time and memory of a call, and the threads that torch has meanwhile.

Ultralytics (8.4.190) sets ``OMP_NUM_THREADS`` to 1 at its import where nobody has set it, and at a model's first
prediction on a CPU lets torch have one thread fewer than there are cores. On two cores this leaves one for anything
beside the detector, such as an enhancer in front of it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Literal, TypeVar

import torch

T = TypeVar("T")

# The state before our own import of ultralytics.
_ASKED = "OMP_NUM_THREADS" in os.environ and "ultralytics" not in sys.modules
_AT_IMPORT = torch.get_num_threads()


@dataclass(frozen=True)
class Cost:
    """Time and memory of a call when it was made.

    Attributes:
        ms: wall-clock time in milliseconds; NaN where it was not measured.
        mb: the highest memory meanwhile in 10^6 bytes, see `timed`; NaN likewise.
    """

    ms: float
    mb: float


def timed(call: Callable[[], T]) -> tuple[T, Cost]:
    """Call, and measure the time and the highest memory meanwhile.

    Where CUDA is in use the memory is the most that torch's tensors took on a device, weights included, without
    what CUDA itself and torch's reserve take. Otherwise, on Linux, it is the highest resident memory of the whole
    process: Python, the libraries, all weights and what torch kept from earlier calls; the memory of a method shows in
    the difference from the row of a cheap one. Elsewhere it is NaN.
    """
    in_use = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    devices = range(torch.cuda.device_count() if in_use else 0)
    for device in devices:
        torch.cuda.reset_peak_memory_stats(device)
    resets = not devices and _reset_peak()
    start = perf_counter()
    result = call()
    ms = 1000 * (perf_counter() - start)
    if devices:
        return result, Cost(ms, max(torch.cuda.max_memory_allocated(device) for device in devices) / 1e6)
    return result, Cost(ms, resident_mb("VmHWM") if resets else float("nan"))


def _reset_peak() -> bool:
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def resident_mb(which: Literal["VmRSS", "VmHWM"]) -> float:
    """Return the resident memory of this process now, or the highest so far, in 10^6 bytes; NaN where unknown."""
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(f"{which}:"):
                return int(line.split()[1]) * 1024 / 1e6
    return float("nan")


def cores() -> int:
    """Return how many processor cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def free_threads(taken: int) -> int:
    """Return how many threads torch is to have outside ultralytics.

    That is the number that a user set by ``OMP_NUM_THREADS`` or `torch.set_num_threads`, or all cores if ultralytics
    set the present number.

    Args:
        taken: the number that ultralytics sets.
    """
    now = torch.get_num_threads()
    if now not in (_AT_IMPORT, taken):
        return now
    return _AT_IMPORT if _ASKED or _AT_IMPORT > 1 else cores()


@contextmanager
def threads(number: int) -> Iterator[None]:
    """Give torch ``number`` threads, and afterwards as many as before."""
    before = torch.get_num_threads()
    if number != before:
        torch.set_num_threads(number)
    try:
        yield
    finally:
        if torch.get_num_threads() != before:
            torch.set_num_threads(before)

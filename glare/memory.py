"""Memory: how much an image takes, how much is available, and giving it back to the system."""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
from pathlib import Path

import torch

from glare.config import GLAREConfig

_C = ctypes.CDLL(None) if os.name == "posix" else None


def bytes_per_pixel(config: GLAREConfig) -> int:
    """Return the memory in float32 that a pixel of a whole image takes, as measured with the presets on a CPU."""
    return (75 if 0 in config.warp_levels else 45) * config.channels // config.stem**2


def available(device: torch.device) -> int:
    """Return how many bytes an image may take."""
    if device.type == "cuda":
        free = torch.cuda.mem_get_info(device)[0]
        return (free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)) // 2
    # A small share, because processes that work side by side divide the memory.
    return min(main_memory() // 4, 3 * 2**30)


def main_memory() -> int:
    """Return the bytes of main memory that are available, within a container's limit; 8 GiB where nothing tells."""
    known = []
    with contextlib.suppress(OSError, ValueError):
        known.append(int(Path("/sys/fs/cgroup/memory.max").read_text()))  # "max" where there is no limit
    with contextlib.suppress(OSError):
        found = re.findall(r"MemAvailable: *(\d+) kB", Path("/proc/meminfo").read_text())
        known += [int(number) * 2**10 for number in found]
    return min(known, default=8 * 2**30)


def give_back() -> None:
    """Give free memory back to the system, where the C library is glibc.

    glibc keeps the holes that blocks of changing sizes leave between blocks in use: at times 2 GB at 3000×4000 pixels,
    and 0.8 GB over 128 photographs of about 640×480.
    """
    if trim := getattr(_C, "malloc_trim", None):
        trim(0)

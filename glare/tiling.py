"""Images of any size: how many pixels go through the network at once, in tiles if need be (`glare.tiles`)."""

from __future__ import annotations

import contextlib
import math
import re
import warnings
from numbers import Integral
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from glare.config import GLAREConfig
from glare.image import from_float, to_float
from glare.model import GLARE
from glare.tiles import SMALLEST, enhance_tiled

#: Side of a tile in pixels where nobody asked for another: what full attention then sees, and a GPU is busy with.
TILE = 512
#: Values of a map at full size in a tile, on a CPU where attention is pooled and sees the whole image: they stay in the
#: cache.
CPU_TILE_VALUES = 9 * 2**18
#: Pixels of several images that go through the network at once: a clip of hundreds of frames would not fit.
PIXELS_AT_ONCE = 2**20
#: Values of a map at full size above which a CPU is faster in tiles: blocks of more than 32 MB are new memory each
#: time, which the system zeroes.
CPU_WHOLE_VALUES = 2**24


class Tiling:
    """Whether images are computed whole or in tiles.

    Args:
        tile: ``None``: always whole. A number T, at least 32: about T·T pixels at once. ``"auto"``: as memory allows,
            and as is faster.

    Raises:
        ValueError: if ``tile`` is none of these.
    """

    def __init__(self, tile: Literal["auto"] | int | None) -> None:
        given: object = tile
        if isinstance(given, Integral):
            tile = int(given)  # NumPy's integers are none of Python's
        number = type(tile) is int and tile >= SMALLEST
        if not (tile is None or (isinstance(tile, str) and tile == "auto") or number):
            raise ValueError(
                f"Expected argument `tile` to be 'auto', None or an integer of at least {SMALLEST} but got {given!r}."
            )
        self.tile = tile
        self._limit: int | None = None  # pixels at once, since more of them did not fit

    def check_whole(self, pixels: Tensor) -> None:
        """Refuse (B,3,H,W) of which a gradient is asked for if its images are to be cut: that takes them whole."""
        height, width = pixels.shape[2:]
        if isinstance(self.tile, int) and height * width > self.tile**2:
            raise ValueError(
                f"Expected images of at most {self.tile}·{self.tile} pixels, as a gradient is asked for and argument "
                f"`tile` is {self.tile}, but got {height}×{width}."
            )

    def enhance(self, model: GLARE, pixels: Tensor, fidelity: float) -> Tensor:
        """`GLARE.forward` without gradient, of as many images, or of as large tiles, at once as memory allows.

        Once more in smaller pieces where a GPU's memory is exceeded. No image depends on its neighbours.

        Args:
            model: the network.
            pixels: (B,3,H,W) uint8 or float in [0,1], on any device.
            fidelity: see `GLARE.forward`.

        Returns:
            (B,3,H,W), cut to [0,1], of the dtype and on the device of ``pixels``.
        """
        device, area = next(model.parameters()).device, pixels.shape[2] * pixels.shape[3]
        results: list[Tensor] = []
        done = 0
        while done < len(pixels):
            room, tile_room = self._room(model, device)
            images = max(1, int(min(room, PIXELS_AT_ONCE)) // area)
            tile = max(SMALLEST, int(tile_room**0.5)) if area > room else None
            part = to_float(pixels[done : done + images].to(device))
            try:
                result = (
                    model(part, fidelity=fidelity)
                    if tile is None
                    else enhance_tiled(model, part, tile, fidelity)
                )
                results.append(from_float(result.float(), pixels.dtype).to(pixels.device))
                del result  # before the next one is made
                done += len(part)
                continue
            except torch.OutOfMemoryError:
                tried = len(part) * area if tile is None else tile**2
                if self.tile is None or tried < 4 * SMALLEST**2:
                    raise
            # Not in the handler, which keeps alive what the failed attempt has filled the memory with.
            if self._limit is None:
                warnings.warn(
                    f"Out of memory on {device} with {tried:,} pixels at once: going on with fewer.",
                    stacklevel=2,
                )
            self._limit = max(area, tried // 4) if len(part) > 1 else tried // 4
        return torch.cat(results)

    def _room(self, model: GLARE, device: torch.device) -> tuple[float, float]:
        """Pixels that may go through the network at once, and in a tile."""
        if self.tile is None:
            return math.inf, math.inf
        room: float
        tile_room: float
        if isinstance(self.tile, int):
            room = tile_room = self.tile**2
        else:
            room = _memory(device) / _bytes_per_pixel(model.config)
            tile_room = TILE**2
            # Where tiles give the same result; what they make of full attention is for want of memory alone.
            if device.type == "cpu" and model.config.attention_grid is not None:
                values = model.config.channels / model.config.stem**2
                room, tile_room = min(room, CPU_WHOLE_VALUES / values), CPU_TILE_VALUES / values
        limit = math.inf if self._limit is None else self._limit
        return min(room, limit), min(room, tile_room, limit)


def _bytes_per_pixel(config: GLAREConfig) -> int:
    """Memory in float32 of an image that is computed whole, measured with the presets on a CPU."""
    return (75 if 0 in config.warp_levels else 45) * config.channels // config.stem**2


def _memory(device: torch.device) -> int:
    """Bytes that an image may take."""
    if device.type == "cuda":
        free = torch.cuda.mem_get_info(device)[0]
        return (free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)) // 2
    # Little, because processes that work side by side share it.
    return min(_main_memory() // 4, 3 * 2**30)


def _main_memory() -> int:
    """Bytes of main memory that are available, within a container's limit; a small machine's where nobody tells."""
    known = []
    with contextlib.suppress(OSError, ValueError):
        known.append(int(Path("/sys/fs/cgroup/memory.max").read_text()))  # "max" where there is no limit
    with contextlib.suppress(OSError):
        found = re.findall(r"MemAvailable: *(\d+) kB", Path("/proc/meminfo").read_text())
        known += [int(number) * 2**10 for number in found]
    return min(known, default=8 * 2**30)

"""Images of any size: the whole image's result, computed in tiles.

Tiles that are enhanced one by one differ in tone: every GroupNorm, the attention and the mean ratio of a warp look at
the whole image. A pass at low resolution would not tell what they see: it averages the noise away, and errors of one
norm grow in the next forty. So the network is computed block by block: what is large, the maps within a block at full
and at 1/2 size, is held for one tile at a time, once for each of the means on its way, and then for good; what a block
hands on is held whole. What comes out is the result without tiles, to rounding.

Full attention alone (``attention_grid=None``) stays within the tile, in overlapping windows with a blend: its cost
would grow with the square of the pixels.
"""

from __future__ import annotations

import contextlib
import copy
import itertools
import math
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Literal, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from glare.config import GLAREConfig
from glare.fusion import Warp
from glare.image import log_input
from glare.layers import Attention, Level, Norm
from glare.model import GLARE

#: Pixels that a tile sees around itself: what the convolutions between two whole maps look across, an upsampling and a
#: block at 1/2 size; and where a warp may fetch its features from.
HALO, WARP_HALO = 8, 64
#: Side of a tile in pixels where nobody asked for another, and the least.
TILE, SMALLEST = 512, 32


class Tiling:
    """Whether images are computed whole or in tiles.

    Args:
        tile: ``None``: always whole. A number T, at least 32: no more than T·T pixels at once. ``"auto"``: as memory
            allows.

    Raises:
        ValueError: if ``tile`` is none of these.
    """

    def __init__(self, tile: Literal["auto"] | int | None) -> None:
        number = isinstance(tile, int) and not isinstance(tile, bool)
        if not (tile is None or tile == "auto" or (number and int(tile) >= SMALLEST)):
            raise ValueError(
                f"Expected argument `tile` to be 'auto', None or a number of at least {SMALLEST} but got {tile!r}."
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

    def enhance(self, model: GLARE, low: Tensor, fidelity: float) -> Tensor:
        """`GLARE.forward` without gradient; once more in smaller pieces where a GPU's memory is exceeded."""
        images, pixels = len(low), len(low) * low.shape[2] * low.shape[3]
        while True:
            room = self._room(model, low.device)
            tile = int(min(room, TILE**2 if self.tile == "auto" else room) ** 0.5) if pixels > room else None
            try:
                if tile is None:
                    return cast(Tensor, model(low, fidelity=fidelity))
                if images > 1:
                    return torch.cat([self.enhance(model, low[i : i + 1], fidelity) for i in range(images)])
                return enhance_tiled(model, low, tile, fidelity)
            except torch.OutOfMemoryError:
                tried = pixels if tile is None else tile**2
                if self.tile is None or tried < 4 * SMALLEST**2:
                    raise
            # Not in the handler, which keeps alive what the failed attempt has filled the memory with.
            if self._limit is None:
                warnings.warn(
                    f"Out of memory on {low.device} with {tried:,} pixels at once: going on with fewer.",
                    stacklevel=2,
                )
            self._limit = tried // 4

    def _room(self, model: GLARE, device: torch.device) -> float:
        """Pixels that may go through the network at once."""
        if self.tile is None:
            return math.inf
        bound = isinstance(self.tile, int)
        room = int(self.tile) ** 2 if bound else _memory(device) // _bytes_per_pixel(model.config)
        return room if self._limit is None else min(room, self._limit)


def _bytes_per_pixel(config: GLAREConfig) -> int:
    """Memory in float32 of an image that is computed whole, measured with the presets on a CPU."""
    return (75 if 0 in config.warp_levels else 45) * config.channels


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


def enhance_tiled(model: GLARE, low: Tensor, tile: int, fidelity: float = 1.0) -> Tensor:
    """`GLARE.forward` in little memory: what it gives, to rounding, where attention is pooled onto a grid.

    Memory still grows with the pixels, at a third of the rate.

    Args:
        model: the network; it is not changed, so threads may share it.
        low: (B,3,H,W) float in [0,1], RGB; any H, W >= 1.
        tile: side of a tile in pixels, at least `SMALLEST`; it sees `HALO` or `WARP_HALO` more on each side.
        fidelity: see `GLARE.forward`.

    Returns:
        (B,3,H,W), not clamped, without gradient.
    """
    with torch.no_grad():
        padded, crop = model.pad(low)
        return crop(torch.cat([_enhance_one(model, image[None], tile, fidelity) for image in padded]))


def _enhance_one(model: GLARE, low: Tensor, tile: int, fidelity: float) -> Tensor:
    tiles = _Tiles(low.shape[2], low.shape[3], tile)
    model = tiles.share(model)
    encoder, codebook, fusion = model.condition.encoder, model.codebook.decoder, model.fusion

    def through(level: Level, x: Tensor, *before: nn.Module) -> Tensor:
        """The blocks of a level, one at a time, the first of them behind ``before``."""
        for block in level.blocks:
            x = tiles.run(nn.Sequential(*before, block), x)
            before = ()
        return x

    def mixed(level: str, h: Tensor, skip: Tensor, code: Tensor | None) -> Tensor:
        maps = (h, skip) if code is None else (h, skip, code)
        return tiles.run(
            lambda h, s, c=None: fusion.fuse(level, h, c, s, fidelity),
            *maps,
            halo=HALO if code is None else WARP_HALO,
        )

    full_skip = through(encoder.level0, log_input(low), encoder.conv_in)
    half_skip = encoder.level1(tiles.run(encoder.down0, full_skip))
    latent = model.invert(*model.condition.heads(encoder.to_latent(half_skip)))
    code = through(codebook.level1, codebook.to_quarter(model.codebook.codes(latent)), codebook.up1)
    h = through(fusion.decoder.level1, fusion.decoder.to_quarter(latent), fusion.decoder.up1)
    h = mixed("1", h, half_skip, code if 1 in model.config.warp_levels else None)
    del half_skip
    full_code = through(codebook.level0, code, codebook.up0) if 0 in model.config.warp_levels else None
    h = through(fusion.decoder.level0, h, fusion.decoder.up0)
    h = mixed("0", h, full_skip, full_code)
    del full_skip, code, full_code
    return tiles.run(fusion.decoder.image, through(fusion.refine, h))


class _Span(NamedTuple):
    """One side of a tile in pixels: what it sees, and within that what is its own."""

    first: int
    start: int
    stop: int
    last: int


def spans(length: int, tile: int, halo: int) -> list[_Span]:
    """Tiles of about the same length, at most ``tile``, along a side of ``length`` pixels; multiples of 4."""
    count = math.ceil(length / tile)
    step = 4 * math.ceil(length / count / 4)
    cuts = [*range(0, length, step), length]
    return [_Span(max(a - halo, 0), a, b, min(b + halo, length)) for a, b in itertools.pairwise(cuts)]


class _Unknown(Exception):  # noqa: N818
    """A tile cannot go on before a layer knows means over the whole image; ``sums`` are the tile's part of them."""

    def __init__(self, layer: _Norm | _Warp, means: Tensor, count: int) -> None:
        super().__init__()
        self.layer = layer
        self.sums = torch.cat((means.double(), torch.ones_like(means[:1]))) * count


class _Tiles:
    """An image of ``height`` × ``width`` pixels in tiles, of which one at a time is computed."""

    def __init__(self, height: int, width: int, tile: int) -> None:
        self.height, self.width, self.tile = height, width, tile
        self.current: tuple[_Span, _Span] | None = None

    def share(self, model: GLARE) -> GLARE:
        """The model, with the same tensors, in a form that computes in these tiles."""
        tensors = (*model.parameters(), *model.buffers())
        model = copy.deepcopy(model, {id(tensor): tensor for tensor in tensors})
        for module in model.modules():
            for form in (_Norm, _Warp, _Attention):
                if type(module) is form.__base__:
                    module.__class__ = form
                    module.tiles = self  # type: ignore[assignment]
        return model

    def run(self, function: Callable[..., Tensor], *maps: Tensor, halo: int = HALO) -> Tensor:
        """``function(*maps)`` tile by tile; maps and result are (1,C,h,w) at 1/1, 1/2 or 1/4 of the image's size."""
        while True:
            result: Tensor | None = None
            layer, sums = None, []
            for rows, columns in itertools.product(
                spans(self.height, self.tile, halo), spans(self.width, self.tile, halo)
            ):
                self.current = rows, columns
                seen = [
                    _cut(m, self.height // m.shape[2], (rows.first, rows.last), (columns.first, columns.last))
                    for m in maps
                ]
                try:
                    piece = self.own(function(*seen))
                except _Unknown as unknown:
                    layer = unknown.layer
                    sums.append(unknown.sums)
                    continue
                step = (rows.stop - rows.start) // piece.shape[2]
                if result is None:
                    result = torch.empty(
                        (1, piece.shape[1], self.height // step, self.width // step),
                        dtype=piece.dtype,
                        device=piece.device,
                        memory_format=torch.channels_last,
                    )
                _cut(result, step, (rows.start, rows.stop), (columns.start, columns.stop)).copy_(piece)
            self.current = None
            if layer is None:
                assert result is not None
                return result
            total = torch.stack(sums).sum(0)
            layer.known = total[:-1] / total[-1]

    def own(self, x: Tensor) -> Tensor:
        """The part of a map of the current tile that no other tile owns."""
        assert self.current is not None
        step = (self.current[0].last - self.current[0].first) // x.shape[2]
        return _cut(x, step, *((span.start - span.first, span.stop - span.first) for span in self.current))


def _cut(x: Tensor, step: int, rows: tuple[int, int], columns: tuple[int, int]) -> Tensor:
    """The part of a map at 1/step of the image's size that lies in these rows and columns of the image."""
    return x[:, :, rows[0] // step : rows[1] // step, columns[0] // step : columns[1] // step]


class _Norm(Norm):
    """In a tile the statistics are those of the whole image."""

    tiles: _Tiles
    known: Tensor | None = None  # the mean and the mean square of each channel

    def forward(self, x: Tensor) -> Tensor:
        if self.tiles.current is None:
            return super().forward(x)
        if self.known is None:
            own = self.tiles.own(x).float()
            var, mean = torch.var_mean(own, (0, 2, 3), correction=0)
            raise _Unknown(self, torch.cat((mean, var + mean.square())), own.shape[2] * own.shape[3])
        mean, square = self.known.view(2, self.num_groups, -1).mean(2)
        mean, var = (
            t.float().repeat_interleave(self.num_channels // self.num_groups)
            for t in (mean, square - mean.square())
        )
        return F.batch_norm(x, mean, var, self.weight, self.bias, eps=self.eps)


class _Warp(Warp):
    """In a tile the means are those of the whole image."""

    tiles: _Tiles
    known: Tensor | None = None

    def gain(self, warped: Tensor, target: Tensor) -> Tensor:
        """See `Warp.gain`."""
        if self.known is None:
            own = [self.tiles.own(x).float() for x in (target, warped)]
            raise _Unknown(self, torch.stack([x.mean() for x in own]), own[0].shape[2] * own[0].shape[3])
        return (self.known[0] / self.known[1]).float()


class _Attention(Attention):
    """Full attention within overlapping windows of a tile's size, with a blend."""

    tiles: _Tiles

    def attend(self, h: Tensor) -> Tensor:
        """See `Attention.attend`."""
        side = self.tiles.tile // 4
        if self.grid is not None or max(h.shape[2:]) <= side:
            return super().attend(h)
        result = torch.zeros_like(h)
        for (top, row_weights), (left, column_weights) in itertools.product(
            *(windows(length, side) for length in h.shape[2:])
        ):
            part = (..., slice(top, top + len(row_weights)), slice(left, left + len(column_weights)))
            weights = (row_weights[:, None] * column_weights).to(h.device)
            result[part] += super().attend(h[part]) * weights
        return result


def windows(length: int, side: int) -> list[tuple[int, Tensor]]:
    """Windows of ``side`` that overlap by a quarter at least: where each starts, and its weights in a blend (side,).

    The weights that meet in a position add up to 1.
    """
    side = min(side, length)
    overlap = side // 4
    count = math.ceil((length - overlap) / max(side - overlap, 1))
    starts = [i * (length - side) // max(count - 1, 1) for i in range(count)]
    ramp = torch.arange(1.0, side + 1.0)
    total = torch.zeros(length)
    hats = []
    for start in starts:
        hat = torch.full((side,), overlap + 1.0)
        if start > 0:
            hat = torch.minimum(hat, ramp)
        if start + side < length:
            hat = torch.minimum(hat, ramp.flip(0))
        total[start : start + side] += hat
        hats.append(hat)
    return [(start, hat / total[start : start + side]) for start, hat in zip(starts, hats, strict=True)]

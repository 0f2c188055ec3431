"""Images of any size: the whole image's result, computed in tiles.

Tiles that are enhanced one by one differ in tone: every GroupNorm, the attention and the mean ratio of a warp look at
the whole image. A pass at low resolution would not tell what they see: it averages the noise away, and errors of one
norm grow in the next forty. So the network is computed convolution by convolution: what goes into one and comes out
is held whole, and its means are those of the whole; what lies between, at full and at 1/2 size, is held for one tile
at a time. What comes out is the result without tiles, to rounding.

Full attention alone (``attention_grid=None``) stays within the tile, in overlapping windows with a blend: its cost
would grow with the square of the pixels.
"""

from __future__ import annotations

import contextlib
import copy
import ctypes
import itertools
import math
import os
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from glare.config import GLAREConfig
from glare.fusion import Warp
from glare.image import from_float, log_input, to_float
from glare.layers import Attention, Level, Norm, ResidualBlock
from glare.model import GLARE

#: Pixels that a tile sees around itself: what the convolutions between two whole maps look across, an upsampling and a
#: block at 1/2 size.
HALO = 8
#: Side of a tile in pixels where nobody asked for another, and the least.
TILE, SMALLEST = 512, 32
#: Pixels of several images that go through the network at once: a clip of hundreds of frames would not fit.
PIXELS_AT_ONCE = 2**20

_C = ctypes.CDLL(None) if os.name == "posix" else None


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
            room = self._room(model, device)
            images = max(1, int(min(room, PIXELS_AT_ONCE)) // area)
            tile = int(min(room, TILE**2 if self.tile == "auto" else room) ** 0.5) if area > room else None
            part = to_float(pixels[done : done + images].to(device))
            try:
                result = (
                    model(part, fidelity=fidelity)
                    if tile is None
                    else enhance_tiled(model, part, tile, fidelity)
                )
                results.append(from_float(result.float(), pixels.dtype).to(pixels.device))
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
            self._limit = tried // 4
        return torch.cat(results)

    def _room(self, model: GLARE, device: torch.device) -> float:
        """Pixels that may go through the network at once."""
        if self.tile is None:
            return math.inf
        bound = isinstance(self.tile, int)
        room = int(self.tile) ** 2 if bound else _memory(device) // _bytes_per_pixel(model.config)
        return room if self._limit is None else min(room, self._limit)


def give_back_memory() -> None:
    """Give the system back the memory that is free, where the C library is glibc.

    Blocks of ever other sizes leave holes between what stays in use, which glibc keeps: up to 1.4 GB at 3000×4000
    pixels, and 0.8 GB over 128 photographs of about 640×480.
    """
    if trim := getattr(_C, "malloc_trim", None):
        trim(0)


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

    Memory still grows with the pixels, with `glare-tiny` by 280 bytes for each of them, not 520 (docs/speed.md).

    Args:
        model: the network; it is not changed, so threads may share it.
        low: (B,3,H,W) float in [0,1], RGB; any H, W >= 1.
        tile: side of a tile in pixels, at least `SMALLEST`; it sees `HALO` more on each side.
        fidelity: see `GLARE.forward`.

    Returns:
        (B,3,H,W), not clamped, without gradient.
    """
    with torch.no_grad():
        padded, crop = model.pad(low)
        model = _in_windows(model, tile // 4)
        return crop(torch.cat([_enhance_one(model, image[None], tile, fidelity) for image in padded]))


def _enhance_one(model: GLARE, low: Tensor, tile: int, fidelity: float) -> Tensor:
    tiles = _Tiles(low.shape[2], low.shape[3], tile)
    encoder, codebook, fusion = model.condition.encoder, model.codebook.decoder, model.fusion

    def convolved(norm: Norm, conv: nn.Module, x: Tensor, *before: nn.Module) -> Tensor:
        start = nn.Sequential(*before)
        normalised = tiles.norm(norm, x, *before)
        return tiles.run(lambda x: conv(F.silu(normalised(start(x)), inplace=True)), x)

    def through(level: Level, x: Tensor, *before: nn.Module) -> Tensor:
        """The residual blocks of a level, behind ``before``; without that, ``x`` is overwritten."""
        for block in cast(Iterable[ResidualBlock], level.blocks):
            start = nn.Sequential(*before, block.shortcut)
            h = convolved(block.norm1, block.conv1, x, *before)
            normalised = tiles.norm(block.norm2, h)
            # Of ``x`` a pixel sees itself alone, if it comes in as it is.
            x = tiles.run(
                lambda h, x: block.conv2(F.silu(normalised(h), inplace=True)).add_(start(x)),  # noqa: B023
                h,
                x,
                into=x if not before and isinstance(block.shortcut, nn.Identity) else None,
            )
            before = ()
            del h  # before the next one is made
        return x

    def warped_in_tiles(warp: Warp, code: Tensor, h: Tensor) -> Tensor:
        # An offset may point anywhere, so that each tile samples from the whole map.
        source = tiles.run(warp.source, code, halo=0)

        def of_tile(code: Tensor, h: Tensor, row: Tensor, column: Tensor) -> Tensor:
            corner = int(row[0, 0, 0, 0]), int(column[0, 0, 0, 0])
            return warp.convolve(source, *warp.guidance(code, h), corner)

        return tiles.run(of_tile, code, h, *_positions(code))

    def mixed(level: str, h: Tensor, skip: Tensor, code: Tensor | None) -> Tensor:
        # In the place of ``h``, but in bfloat16, where the mix-up gives float32.
        into = h if h.dtype == torch.float32 else None
        h = tiles.run(lambda skip, h: fusion.mix[level](skip, h, fidelity), skip, h, halo=0, into=into)
        if code is None:
            return h
        warp = cast(Warp, fusion.warp[level])
        warped = warped_in_tiles(warp, code, h)
        gain = warp.gain(warped, h)
        return tiles.run(lambda h, warped: h + warped * gain, h, warped, halo=0)

    full_skip = through(encoder.level0, log_input(low), encoder.conv_in)
    half_skip = encoder.level1(tiles.run(encoder.down0, full_skip))
    latent = model.invert(*model.condition.heads(encoder.to_latent(half_skip)))
    code = through(codebook.level1, codebook.to_quarter(model.codebook.codes(latent)), codebook.up1)
    h = through(fusion.decoder.level1, fusion.decoder.to_quarter(latent), fusion.decoder.up1)
    h = mixed("1", h, half_skip, code if 1 in model.config.warp_levels else None)
    del half_skip
    full_code = through(codebook.level0, code, codebook.up0) if 0 in model.config.warp_levels else None
    del code
    h = through(fusion.decoder.level0, h, fusion.decoder.up0)
    h = mixed("0", h, full_skip, full_code)
    del full_skip, full_code
    return convolved(fusion.decoder.norm_out, fusion.decoder.conv_out, through(fusion.refine, h))


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


class _Tiles:
    """An image of ``height`` × ``width`` pixels in tiles, of which one at a time is computed.

    Maps are (1,C,h,w) at 1/1, 1/2 or 1/4 of the image's size.
    """

    def __init__(self, height: int, width: int, tile: int) -> None:
        self.height, self.width, self.tile = height, width, tile

    def run(
        self, function: Callable[..., Tensor], *maps: Tensor, halo: int = HALO, into: Tensor | None = None
    ) -> Tensor:
        """``function(*maps)``, a map, where asked for in the place of another one of its size."""
        for rows, columns, step, piece in self._pieces(function, maps, halo):
            if into is None:
                into = torch.empty(
                    (1, piece.shape[1], self.height // step, self.width // step),
                    dtype=piece.dtype,
                    device=piece.device,
                    memory_format=torch.channels_last,
                )
            _cut(into, step, (rows.start, rows.stop), (columns.start, columns.stop)).copy_(piece)
        assert into is not None
        give_back_memory()
        return into

    def norm(self, norm: Norm, x: Tensor, *before: nn.Module) -> Callable[[Tensor], Tensor]:
        """``norm`` for tiles of the map ``before(x)``, by the statistics of the whole map."""
        sums, count = [], 0
        for *_, piece in self._pieces(nn.Sequential(*before), (x,), HALO if before else 0):
            pixels = piece.shape[2] * piece.shape[3]
            # On a CPU five times as fast as `torch.var_mean`, which takes as long as a convolution.
            _, mean, rstd = torch.native_group_norm(
                piece.float(), None, None, 1, norm.num_channels, pixels, norm.num_groups, 0.0
            )
            sums.append(torch.cat((mean, rstd.double().pow(-2) + mean.double().square())) * pixels)
            count += pixels
        moments = torch.stack(sums).sum(0) / count
        mean, square = moments.repeat_interleave(norm.num_channels // norm.num_groups, 1)
        var = (square - mean.square()).float()
        return lambda x: F.batch_norm(x, mean.float(), var, norm.weight, norm.bias, eps=norm.eps)

    def _pieces(
        self, function: Callable[..., Tensor], maps: Sequence[Tensor], halo: int
    ) -> Iterator[tuple[_Span, _Span, int, Tensor]]:
        """The rows and columns of each tile, and its own part of ``function(*maps)``, at 1/step of the size."""
        for rows, columns in itertools.product(
            spans(self.height, self.tile, halo), spans(self.width, self.tile, halo)
        ):
            seen = [
                _cut(m, self.height // m.shape[2], (rows.first, rows.last), (columns.first, columns.last))
                for m in maps
            ]
            result = function(*seen)
            step = (rows.last - rows.first) // result.shape[2]
            own = [(span.start - span.first, span.stop - span.first) for span in (rows, columns)]
            yield rows, columns, step, _cut(result, step, *own)


def _cut(x: Tensor, step: int, rows: tuple[int, int], columns: tuple[int, int]) -> Tensor:
    """The part of a map at 1/step of the image's size that lies in these rows and columns of the image."""
    return x[:, :, rows[0] // step : rows[1] // step, columns[0] // step : columns[1] // step]


def _positions(x: Tensor) -> tuple[Tensor, Tensor]:
    """Row and column of each position of a map (B,C,H,W), as maps (1,1,H,W) that take no memory."""
    height, width = x.shape[2:]
    rows, columns = torch.arange(height).view(1, 1, -1, 1), torch.arange(width).view(1, 1, 1, -1)
    return rows.expand(1, 1, height, width), columns.expand(1, 1, height, width)


def _in_windows(model: GLARE, side: int) -> GLARE:
    """The model, with the same tensors, whose full attention stays within windows of ``side`` positions."""
    if model.config.attention_grid is not None:
        return model
    tensors = (*model.parameters(), *model.buffers())
    model = copy.deepcopy(model, {id(tensor): tensor for tensor in tensors})
    for module in model.modules():
        if type(module) is Attention:
            module.__class__ = _Attention
            module.side = side  # type: ignore[assignment]
    return model


class _Attention(Attention):
    """Full attention within overlapping windows of ``side`` positions a side, with a blend."""

    side: int

    def attend(self, h: Tensor) -> Tensor:
        """See `Attention.attend`."""
        result = torch.zeros_like(h)
        for (top, row_weights), (left, column_weights) in itertools.product(
            *(windows(length, self.side) for length in h.shape[2:])
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

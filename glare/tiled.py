"""Images of any size: whole, or in tiles where memory (`glare.memory`) or speed asks for it.

`Tiling` chooses; `enhance_tiled` gives the whole image's result from a few maps and one tile of what lies between them.

Tiles that are enhanced one by one differ in tone: every GroupNorm, the attention and the mean ratio of a warp look at
the whole image. A pass at low resolution would not give their statistics: it averages the noise away, and errors of one
norm grow in the next forty. So the network is computed convolution by convolution. The maps between two convolutions
are held whole, and so are their means; whatever lies within a convolution is held for one tile at a time. The result is
that without tiles, to rounding.

Full attention (``attention_grid=None``) is the exception: it stays within overlapping windows with a blend, because its
cost would grow with the square of the pixels.
"""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from numbers import Integral
from typing import Literal, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from glare import memory
from glare.fusion import Warp
from glare.image import from_float, log_input, to_float
from glare.layers import Attention, Decoder, Norm, ResidualBlock, fold, unfold
from glare.model import GLARE

#: The least side of a tile in pixels.
SMALLEST = 32
#: Bytes of a map before which free memory is given back. Giving back takes time, and smaller maps keep the peak low.
GREAT = 2**28
#: Default side of a tile in pixels: the field of view of full attention, and enough to keep a GPU busy.
TILE = 512
#: Values of a map at full size in a tile on a CPU, where attention is pooled and sees the whole image. So many stay in
#: the cache.
CPU_TILE_VALUES = 9 * 2**18
#: Pixels of several images that go through the network at once; a clip of hundreds of frames would not fit.
PIXELS_AT_ONCE = 2**20
#: Values of a map at full size above which a CPU is faster in tiles, because blocks of more than 32 MB are new memory
#: each time, which the system zeroes.
CPU_WHOLE_VALUES = 2**24


class Tiling:
    """Choice between computing images whole and in tiles.

    Args:
        tile: ``None``: always whole. A number T, at least 32: about T·T pixels at once. ``"auto"``: as memory allows,
            and as is faster.

    Raises:
        ValueError: if ``tile`` is none of these.
    """

    def __init__(self, tile: Literal["auto"] | int | None) -> None:
        given: object = tile
        if isinstance(given, Integral):
            tile = int(given)  # NumPy's integers are no Python integers
        number = type(tile) is int and tile >= SMALLEST
        if not (tile is None or (isinstance(tile, str) and tile == "auto") or number):
            raise ValueError(
                f"Expected argument `tile` to be 'auto', None or an integer of at least {SMALLEST} but got {given!r}."
            )
        self.tile = tile
        self._limit: int | None = None  # pixels at once, after more of them did not fit

    def check_whole(self, pixels: Tensor) -> None:
        """Raise ValueError if images (B,3,H,W) would be cut: a gradient takes them whole."""
        height, width = pixels.shape[2:]
        if isinstance(self.tile, int) and height * width > self.tile**2:
            raise ValueError(
                f"Expected images of at most {self.tile}·{self.tile} pixels, as a gradient is asked for and argument "
                f"`tile` is {self.tile}, but got {height}×{width}."
            )

    def enhance(self, model: GLARE, pixels: Tensor, fidelity: float) -> Tensor:
        """Compute `GLARE.forward` without gradient, on as many images, or tiles as large, at once as memory allows.

        Where a GPU's memory is exceeded, smaller pieces follow. No image depends on its neighbours.

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
            # Outside of the handler, which keeps the tensors of the failed attempt alive.
            if self._limit is None:
                warnings.warn(
                    f"Out of memory on {device} with {tried:,} pixels at once: going on with fewer.",
                    stacklevel=2,
                )
            self._limit = max(area, tried // 4) if len(part) > 1 else tried // 4
        return torch.cat(results)

    def _room(self, model: GLARE, device: torch.device) -> tuple[float, float]:
        """Return how many pixels may go through the network at once, and in a tile."""
        if self.tile is None:
            return math.inf, math.inf
        room: float
        tile_room: float
        if isinstance(self.tile, int):
            room = tile_room = self.tile**2
        else:
            room = memory.available(device) / memory.bytes_per_pixel(model.config)
            tile_room = TILE**2
            # Only where tiles give the same result: with full attention they are for want of memory alone.
            if device.type == "cpu" and model.config.attention_grid is not None:
                values = model.config.channels / model.config.stem**2
                room, tile_room = min(room, CPU_WHOLE_VALUES / values), CPU_TILE_VALUES / values
        limit = math.inf if self._limit is None else self._limit
        return min(room, limit), min(room, tile_room, limit)


def enhance_tiled(model: GLARE, low: Tensor, tile: int, fidelity: float = 1.0) -> Tensor:
    """Compute `GLARE.forward` in little memory; the same to rounding where attention is pooled onto a grid.

    Memory still grows with the pixels, with `glare-tiny` by 290 bytes for each of them, not 450 (docs/speed.md).

    Args:
        model: the network; it is not changed, so threads may share it.
        low: (B,3,H,W) float in [0,1], RGB; any H, W >= 1.
        tile: side in pixels of a square of the area of a tile, at least `SMALLEST`.
        fidelity: see `GLARE.forward`.

    Returns:
        (B,3,H,W), not clamped, without gradient.

    >>> model, low = GLARE("tiny").eval(), torch.rand(1, 3, 48, 80) / 10
    >>> torch.allclose(enhance_tiled(model, low, tile=32), model(low), atol=1e-4)
    True
    """
    with torch.no_grad():
        padded, crop = model.pad(low)
        return crop(torch.cat([_enhance_one(model, image[None], tile, fidelity) for image in padded]))


def _enhance_one(model: GLARE, low: Tensor, tile: int, fidelity: float) -> Tensor:
    """Compute `GLARE.forward` on (1,3,H,W), its sides multiples of the stride."""
    encoder, codebook, fusion = model.condition.encoder, model.codebook.decoder, model.fusion
    pixels, low = low, fold(low, encoder.stem)
    tiles = _Tiles(low.shape[2], low.shape[3], tile // encoder.stem)
    warped_levels = model.config.warp_levels

    def to_quarter(decoder: Decoder, latent: Tensor) -> Tensor:
        h = tiles.run(decoder.conv_in, latent)
        return tiles.through([*decoder.middle, *decoder.level2], h)

    def to_half(decoder: Decoder, h: Tensor) -> Tensor:
        # The argument is freed here, since the memory has its peak in what follows.
        h = tiles.run(decoder.up1, h)
        return tiles.through(decoder.level1, h)

    def warped(level: int, h: Tensor, code: Tensor) -> Tensor:
        return tiles.warped(cast(Warp, fusion.warp[str(level)]), code, h) if level in warped_levels else h

    def mixed(level: str, h: Tensor, skip: Tensor) -> Tensor:
        # ``h`` is overwritten, except in bfloat16, where the mix-up gives float32.
        into = h if h.dtype == fusion.mix[level].theta.dtype else None
        return tiles.run(lambda skip, h: fusion.mix[level](skip, h, fidelity), skip, h, reach=0, into=into)

    full_skip = tiles.through(encoder.level0, tiles.run(lambda low: encoder.conv_in(log_input(low)), low))
    half_skip = tiles.through(encoder.level1, tiles.run(encoder.down0, full_skip, reach=2))
    h = tiles.through([*encoder.level2, *encoder.middle], tiles.run(encoder.down1, half_skip, reach=2))
    feature, latent = model.condition.heads(tiles.convolved(encoder.norm_out, encoder.conv_out, h))
    del h
    for step in model.flow.inverse_steps():
        latent = tiles.run(step, latent, feature, reach=2)
    del feature
    latent = model.bounded(latent)

    code = to_quarter(codebook, model.codebook.codes(latent))
    h = warped(2, to_quarter(fusion.decoder, latent), code)
    if min(warped_levels) <= 1:
        code = to_half(codebook, code)
    h = mixed("1", to_half(fusion.decoder, h), half_skip)
    del half_skip
    h = warped(1, h, code)
    if 0 in warped_levels:
        code = tiles.through(codebook.level0, code, codebook.up0)
    h = tiles.through(fusion.decoder.level0, h, fusion.decoder.up0)
    h = mixed("0", h, full_skip)
    del full_skip
    h = warped(0, h, code)
    del code
    h = tiles.convolved(fusion.decoder.norm_out, fusion.decoder.conv_out, tiles.through(fusion.refine, h))
    h = unfold(h, encoder.stem)
    detail = fusion.detail
    if detail is None:
        return h
    at_pixels = _Tiles(pixels.shape[2], pixels.shape[3], tile)
    return at_pixels.run(lambda h, low: detail(h, log_input(low), fidelity), h, pixels, reach=3)


class _Span(NamedTuple):
    """One side of a tile in positions of the grid: the part it sees, ``first`` to ``last``, and its own within that."""

    first: int
    start: int
    stop: int
    last: int


def spans(length: int, tile: int, halo: int) -> list[_Span]:
    """Divide ``length`` positions into tiles of about the same length, at most ``tile`` and up to the next 4."""
    count = math.ceil(length / tile)
    step = 4 * math.ceil(length / count / 4)
    cuts = [*range(0, length, step), length]
    return [_Span(max(a - halo, 0), a, b, min(b + halo, length)) for a, b in itertools.pairwise(cuts)]


class _Tiles:
    """A grid of ``height`` × ``width`` positions, computed one tile at a time.

    Maps are (1,C,h,w) at 1/1, 1/2 or 1/4 of the grid's size.
    """

    def __init__(self, height: int, width: int, tile: int) -> None:
        self.height, self.width, self.tile = height, width, tile

    def through(self, layers: Iterable[nn.Module], x: Tensor, *before: nn.Module) -> Tensor:
        """Apply residual blocks of one width and attentions, after ``before``; without that, ``x`` is overwritten."""
        h: Tensor | None = None  # one map for all blocks, since new memory costs time
        for layer in layers:
            if isinstance(layer, Attention):
                x = self.attended(layer, x)
                continue
            block = cast(ResidualBlock, layer)
            start = nn.Sequential(*before, block.shortcut)
            h = self.convolved(block.norm1, block.conv1, x, *before, into=h)
            normalised = self.norm(block.norm2, h)
            # Without a shortcut each pixel of the result needs one pixel of ``x``, which may be overwritten.
            x = self.run(
                lambda h, x: block.conv2(F.silu(normalised(h), inplace=True)).add_(start(x)),  # noqa: B023
                h,
                x,
                into=x if not before and isinstance(block.shortcut, nn.Identity) else None,
            )
            before = ()
        return x

    def attended(self, attention: Attention, x: Tensor) -> Tensor:
        """Apply an attention; ``x`` is overwritten."""
        normalised = self.norm(attention.norm, x)
        if attention.grid is None:
            return x.add_(_in_windows(attention, normalised(x), self.tile // 4))
        # The mean of normalised pixels is the normalised mean.
        context = attention.steadied(normalised(attention.pooled(x)))
        return self.run(lambda x: x + attention.attend(normalised(x), context), x, reach=0, into=x)

    def warped(self, warp: Warp, code: Tensor, h: Tensor) -> Tensor:
        """Return the sum of ``h`` and the warped ``code``."""
        source = warp.source(code)  # whole, since an offset may point anywhere

        def of_tile(code: Tensor, h: Tensor, row: Tensor, column: Tensor) -> Tensor:
            corner = int(row[0, 0, 0, 0]), int(column[0, 0, 0, 0])
            return warp.convolve(source, *warp.guidance(code, h), corner)

        warped = self.run(of_tile, code, h, *_positions(code), reach=2)
        gain = warp.gain(warped, h)
        return self.run(lambda h, warped: h + warped * gain, h, warped, reach=0, into=warped)

    def convolved(
        self, norm: Norm, conv: nn.Module, x: Tensor, *before: nn.Module, into: Tensor | None = None
    ) -> Tensor:
        """Apply norm, swish and a convolution to the map ``before(x)``."""
        start = nn.Sequential(*before)
        normalised = self.norm(norm, x, *before)
        return self.run(
            lambda x: conv(F.silu(normalised(start(x)), inplace=True)), x, reach=2 if before else 1, into=into
        )

    def norm(self, norm: Norm, x: Tensor, *before: nn.Module) -> Callable[[Tensor], Tensor]:
        """Return ``norm`` as a function of tiles of the map ``before(x)``, with the statistics of the whole map."""
        sums = []
        for *_, piece in self._pieces(nn.Sequential(*before), (x,), 1 if before else 0):
            sums.append(_sums(norm, piece))
            del piece  # before the next one is made
        count, total, squares = (
            torch.stack(sums).sum(0).repeat_interleave(norm.num_channels // norm.num_groups, 1)
        )
        mean = total / count
        var = squares / count - mean.square()
        mean, var = (of_channels.to(norm.weight.dtype) for of_channels in norm.steadied(mean, var))
        return lambda x: F.batch_norm(x, mean, var, norm.weight, norm.bias, eps=norm.eps)

    def run(
        self, function: Callable[..., Tensor], *maps: Tensor, reach: int = 1, into: Tensor | None = None
    ) -> Tensor:
        """Compute a map as a function of other maps.

        Args:
            function: parts of ``maps`` -> the same part of the result, which may be of another size.
            maps: its arguments.
            reach: how far it looks, in positions of the coarsest of ``maps``: two 3×3 convolutions look 2 far. Even
                where the result is of half the size, as tiles must not begin within one of its positions.
            into: a map of the result's size that the result overwrites.
        """
        for rows, columns, step, piece in self._pieces(function, maps, reach):
            if into is None:
                size = 1, piece.shape[1], self.height // step, self.width // step
                if math.prod(size) * piece.element_size() > GREAT:
                    memory.give_back()
                into = torch.empty(
                    size, dtype=piece.dtype, device=piece.device, memory_format=torch.channels_last
                )
            _cut(into, step, (rows.start, rows.stop), (columns.start, columns.stop)).copy_(piece)
            del piece  # before the next one is made
        assert into is not None
        return into

    def _pieces(
        self, function: Callable[..., Tensor], maps: Sequence[Tensor], reach: int
    ) -> Iterator[tuple[_Span, _Span, int, Tensor]]:
        """Yield the rows and columns of each tile, and its own part of ``function(*maps)``, at 1/step of the size."""
        coarsest = max(self.height // m.shape[2] for m in maps)
        halo = reach * coarsest
        # A tile has twice as many pixels at 1/4 of the size, where they hold fewer values. It has whole rows, which are
        # contiguous in memory, since each convolution would copy other parts; and at least twice as many as its halo.
        area = self.tile**2 * max(1, coarsest // 2)
        height = min(self.height, max(16, 4 * halo, area // self.width))
        for rows in spans(self.height, height, halo):
            for columns in spans(self.width, area // height, halo):
                yield self._piece(function, maps, rows, columns)

    def _piece(
        self, function: Callable[..., Tensor], maps: Sequence[Tensor], rows: _Span, columns: _Span
    ) -> tuple[_Span, _Span, int, Tensor]:
        sides = (rows.first, rows.last), (columns.first, columns.last)
        result = function(*(_cut(m, self.height // m.shape[2], *sides) for m in maps))
        step = (rows.last - rows.first) // result.shape[2]
        assert rows.first % step == columns.first % step == 0
        own = [(span.start - span.first, span.stop - span.first) for span in (rows, columns)]
        return rows, columns, step, _cut(result, step, *own)


def _sums(norm: Norm, x: Tensor) -> Tensor:
    """Return number, sum and sum of squares of the values in each group of a norm, on a map (1,C,h,w): (3,G)."""
    pixels = x.shape[2] * x.shape[3]
    # This is five times as fast on a CPU as `torch.var_mean`, which takes as long as a convolution.
    _, mean, rstd = torch.native_group_norm(
        x.to(norm.weight.dtype), None, None, 1, norm.num_channels, pixels, norm.num_groups, 0.0
    )
    mean, var = mean[0].double(), rstd[0].double().pow(-2)
    return torch.stack((torch.ones_like(mean), mean, var + mean.square())) * pixels


def _cut(x: Tensor, step: int, rows: tuple[int, int], columns: tuple[int, int]) -> Tensor:
    """Return the part of a map at 1/step of the image's size that lies in these rows and columns of the image."""
    return x[:, :, rows[0] // step : rows[1] // step, columns[0] // step : columns[1] // step]


def _positions(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return row and column of each position of a map (B,C,H,W), as maps (1,1,H,W) that take no memory."""
    height, width = x.shape[2:]
    rows, columns = torch.arange(height).view(1, 1, -1, 1), torch.arange(width).view(1, 1, 1, -1)
    return rows.expand(1, 1, height, width), columns.expand(1, 1, height, width)


def _in_windows(attention: Attention, h: Tensor, side: int) -> Tensor:
    """Compute `Attention.attend` within overlapping windows of ``side`` positions a side, with a blend."""
    result = torch.zeros_like(h)
    for (top, row_weights), (left, column_weights) in itertools.product(
        *(windows(length, side) for length in h.shape[2:])
    ):
        part = (..., slice(top, top + len(row_weights)), slice(left, left + len(column_weights)))
        weights = (row_weights[:, None] * column_weights).to(h.device)
        result[part] += attention.attend(h[part], h[part]) * weights
    return result


def windows(length: int, side: int) -> list[tuple[int, Tensor]]:
    """Return windows of ``side`` that overlap by a quarter at least: their starts, and weights in a blend (side,).

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

"""Stage III: adaptive feature transformation (GLARE, section 3.3).

A second decoder turns the flow's latent into the image. At 1/2 and at full resolution the decoder mixes in the
conditional encoder's features, which hold the input's detail (adaptive mix-up). At these resolutions or at the latent's
it adds the codebook decoder's features, warped to where they fit (a deformable convolution).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import deform_conv2d

from glare.config import GLAREConfig
from glare.layers import Decoder, Level, RunningMean

#: Samples that a deformable convolution holds at once. On a CPU 8 MiB stay in the cache; with 64 MiB it takes up to 1.9
#: times as long. On a GPU, where each strip is a dozen kernels, 256 MiB.
STRIP_ELEMENTS, GPU_STRIP_ELEMENTS = 2**21, 2**26


class MixUp(nn.Module):
    """skip·s + h·(1−s), where s = fidelity·σ(θ), kept within [0,1], with one learned θ."""

    def __init__(self, start: float) -> None:
        super().__init__()
        self.theta = nn.Parameter(torch.tensor([start]))

    def forward(self, skip: Tensor, h: Tensor, fidelity: float) -> Tensor:
        """Mix two maps (B,C,H,W)."""
        share = (fidelity * torch.sigmoid(self.theta)).clamp(max=1.0)
        return share * skip + (1.0 - share) * h


class Warp(nn.Module):
    """Modulated deformable 3×3 convolution of a code feature, guided by the feature to match (Zhu et al., 2019)."""

    #: What the means follow where a video is steadied, see `glare.steady`.
    steady: RunningMean | None = None

    def __init__(self, channels: int, reduced: int | None, groups: int) -> None:
        super().__init__()
        self.groups = groups
        self.reduce = nn.Conv2d(channels, reduced, 1) if reduced else nn.Identity()
        self.guide = nn.Conv2d(2 * channels, channels, 3, padding=1)
        # Per group and tap: dy, dx, then the masks. Zeros start as an ordinary convolution at half strength.
        self.offsets = nn.Conv2d(channels, groups * 3 * 9, 3, padding=1)
        nn.init.zeros_(self.offsets.weight)
        nn.init.zeros_(self.offsets.bias)  # type: ignore[arg-type]
        self.weight = nn.Parameter(torch.empty(channels, reduced or channels, 3, 3))
        nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))
        # Away from zero, because `Fusion` divides by the mean of the result.
        self.bias = nn.Parameter(torch.full((channels,), 0.5))

    def forward(self, code: Tensor, target: Tensor) -> Tensor:
        """Warp ``code`` (B,C,H,W) to ``target`` (B,C,H,W) -> (B,C,H,W)."""
        return self.convolve(self.source(code), *self.guidance(code, target))

    def source(self, code: Tensor) -> Tensor:
        """Return the map that is sampled: ``code`` (B,C,H,W), reduced, in float32."""
        # torchvision has no deformable convolution in bfloat16 on the CPU.
        return cast(Tensor, self.reduce(code)).to(self.weight.dtype)

    def guidance(self, code: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Return where and how much is sampled: offsets (B,18·groups,H,W) in positions and masks (B,9·groups,H,W)."""
        raw: Tensor = self.offsets(self.guide(torch.cat((code, target), 1)))
        offset, mask = torch.split(raw.to(self.weight.dtype), [self.groups * 18, self.groups * 9], 1)
        # At an offset of NaN torchvision's kernel reads out of bounds, and the process dies.
        return torch.nan_to_num(offset), torch.sigmoid(mask)

    def gain(self, warped: Tensor, target: Tensor) -> Tensor:
        """Return the factor (B,1,1,1) that brings ``warped`` to the mean of ``target``, both (B,C,H,W)."""
        # Per image, not per batch: the result for one image must not depend on its neighbours.
        means = torch.stack([h.mean((1, 2, 3), keepdim=True) for h in (target, warped)])
        means = means if self.steady is None else self.steady(means)
        return means[0] / means[1]

    def convolve(
        self, source: Tensor, offset: Tensor, mask: Tensor, corner: tuple[int, int] = (0, 0)
    ) -> Tensor:
        """Convolve the map, or a part of it; an offset may reach from the part to any place.

        Args:
            source: the whole map (B,C,H,W).
            offset: of a part of it, (B,18·groups,h,w).
            mask: of that part, (B,9·groups,h,w).
            corner: row and column of the part's first position.

        Returns:
            the part, (B,C',h,w).
        """
        with torch.autocast(source.device.type, enabled=False):
            # torchvision's kernel takes whole maps alone.
            if source.device.type == "cpu" or offset.shape[2:] != source.shape[2:]:
                return _sampled_convolution(source, offset, self.weight, self.bias, mask, corner)
            return deform_conv2d(source, offset, self.weight, self.bias, padding=1, mask=mask)  # type: ignore[no-any-return]


def _sampled_convolution(
    code: Tensor, offset: Tensor, weight: Tensor, bias: Tensor, mask: Tensor, corner: tuple[int, int] = (0, 0)
) -> Tensor:
    """Compute `sample_and_convolve` in strips of rows.

    On a CPU torchvision's kernel takes 3.5 times as long, and its gradient, on one core, a quarter of a training step.
    """
    c, (height, width) = code.shape[1], offset.shape[2:]
    # A strip holds the nine samples of each of its positions.
    elements = STRIP_ELEMENTS if code.device.type == "cpu" else GPU_STRIP_ELEMENTS
    rows = max(1, elements // (9 * c * width * len(code)))
    strips = [
        sample_and_convolve(
            code,
            offset[:, :, top : top + rows],
            weight,
            bias,
            mask[:, :, top : top + rows],
            (corner[0] + top, corner[1]),
        )
        for top in range(0, height, rows)
    ]
    return torch.cat(strips, 2) if len(strips) > 1 else strips[0]


def sample_and_convolve(
    code: Tensor, offset: Tensor, weight: Tensor, bias: Tensor, mask: Tensor, corner: tuple[int, int]
) -> Tensor:
    """Compute `deform_conv2d` for 3×3 kernels by `grid_sample` and a 1×1 convolution, see `Warp.convolve`."""
    b, c, height, width = code.shape
    rows, columns = offset.shape[2:]
    groups, (top, left) = mask.shape[1] // 9, corner
    tap = torch.arange(9, device=code.device)
    down = torch.arange(top, top + rows, device=code.device)[:, None] + (tap // 3 - 1)[:, None, None]
    right = torch.arange(left, left + columns, device=code.device) + (tap % 3 - 1)[:, None, None]
    shift = offset.reshape(b * groups, 9, 2, rows, columns)
    y, x = shift[:, :, 0] + down, shift[:, :, 1] + right
    grid = torch.stack(((2.0 * x + 1.0) / width - 1.0, (2.0 * y + 1.0) / height - 1.0), -1)
    taps = F.grid_sample(
        code.reshape(b * groups, c // groups, height, width),
        grid.reshape(b * groups, 9 * rows, columns, 2),
        align_corners=False,
    )
    taps = taps.view(b, groups, c // groups, 9, rows, columns) * mask.reshape(b, groups, 1, 9, rows, columns)
    return F.conv2d(taps.reshape(b, 9 * c, rows, columns), weight.reshape(len(weight), 9 * c, 1, 1), bias)


class Detail(nn.Module):
    """The last mix-up, at the image's own size: the decoder's image and the input, both in few channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.of_image = nn.Conv2d(3, channels, 3, padding=1)
        self.of_input = nn.Conv2d(3, channels, 3, padding=1)
        self.mix = MixUp(0.0)
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv_out = nn.Conv2d(channels, 3, 3, padding=1)
        nn.init.zeros_(self.conv_out.weight)
        nn.init.zeros_(self.conv_out.bias)  # type: ignore[arg-type]

    def forward(self, image: Tensor, seen: Tensor, fidelity: float) -> Tensor:
        """Mix the decoder's image (B,3,H,W) and the input's logarithm (B,3,H,W) to the image (B,3,H,W)."""
        if torch.is_grad_enabled() or torch.compiler.is_compiling():
            return self.of_part(image, seen, fidelity)
        # Strips of rows stay in a core's cache; whole maps at this size would be the peak of the memory.
        height, width = image.shape[2:]
        rows = max(16, STRIP_ELEMENTS // (2 * self.conv.in_channels * width * len(image)))
        strips = []
        for top in range(0, height, rows):
            first, last = (
                max(top - 3, 0),
                min(top + rows + 3, height),
            )  # three convolutions see three rows more
            part = self.of_part(image[:, :, first:last], seen[:, :, first:last], fidelity)
            strips.append(part[:, :, top - first : top - first + rows])
        return torch.cat(strips, 2) if len(strips) > 1 else strips[0]

    def of_part(self, image: Tensor, seen: Tensor, fidelity: float) -> Tensor:
        """Do what `forward` does in one piece."""
        # Brought to about [-0.7, 1], so that the zeros around it are a middle tone and not white.
        h = self.mix(self.of_input(seen / 4.0 + 1.0), self.of_image(image), fidelity)
        h = self.conv(F.silu(h, inplace=True))
        return image + self.conv_out(F.silu(h, inplace=True))  # type: ignore[no-any-return]


class Fusion(nn.Module):
    """The second decoder with its mix-ups and warps."""

    def __init__(self, config: GLAREConfig) -> None:
        super().__init__()
        self.decoder = Decoder(config)
        # Keys are levels: 0 is full resolution, 1 is 1/2, 2 is 1/4.
        self.mix = nn.ModuleDict({"1": MixUp(-1.0), "0": MixUp(-0.6)})
        self.warp = nn.ModuleDict(
            {
                str(level): Warp(config.widths[level], config.warp_channels, config.warp_groups)
                for level in config.warp_levels
            }
        )
        self.refine = Level(config.channels, config.channels, config.fusion_blocks, False, config)
        self.detail = Detail(config.detail_channels) if config.detail_channels else None

    def forward(
        self,
        latent: Tensor,
        features: Sequence[Tensor | None],
        skips: Sequence[Tensor],
        fidelity: float = 1.0,
    ) -> Tensor:
        """Decode a latent with the input's detail and the codebook's.

        Args:
            latent: from the flow, not quantised, (B,C,h,w).
            features: of the codebook's decoder, at full, 1/2 and 1/4 size; what no warp uses may be None.
            skips: see `glare.condition.Condition`.
            fidelity: weight of the skips, in [0, 2]: 1 as trained, 0 leans on the codebook, above 1 on the input.

        Returns:
            the image (B,3,H,W), not clamped.
        """
        return self.consume(latent, list(features), list(skips), fidelity)

    def consume(
        self, latent: Tensor, features: list[Tensor | None], skips: list[Tensor], fidelity: float = 1.0
    ) -> Tensor:
        """Do what `forward` does, and let go of each map once it is used: both lists are empty at the end.

        At full size each map counts in the peak of the memory. `GLARE.forward` gives its maps away.
        """
        h = self._warped("2", self.decoder.to_quarter(latent), features.pop())
        h = self.mix["1"](skips.pop(), self.decoder.to_half(h), fidelity)
        h = self._warped("1", h, features.pop())
        h = self.mix["0"](skips.pop(), self.decoder.to_full(h), fidelity)
        h = self._warped("0", h, features.pop())
        image: Tensor = self.decoder.image(self.refine(h))
        del h
        return image if self.detail is None else self.detail(image, skips.pop(), fidelity)

    def _warped(self, level: str, h: Tensor, code: Tensor | None) -> Tensor:
        """Return ``h``, plus the warped ``code`` where the level has a warp."""
        if level not in self.warp:
            return h
        warp = cast(Warp, self.warp[level])
        warped: Tensor = warp(code, h)
        return h + warped * warp.gain(warped, h)

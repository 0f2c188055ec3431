"""Layers that the three stages share: residual block, attention, up- and downsampling, Encoder, Decoder.

The layers are those of the VQGAN (Esser et al., "Taming Transformers", CVPR 2021) with two downsamplings, which
GLARE uses for the codebook, for the conditional encoder and for the second decoder.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from glare.config import GLAREConfig

#: Scores that attention in bfloat16 on a CPU holds at once: 16 MiB, and as much for their softmax.
SCORES_AT_ONCE = 2**23


class RunningMean:
    """A mean over time, for video: of all that it was given it keeps, and gives, the mean with fading weights."""

    def __init__(self) -> None:
        self.share = 1.0  # of what is new; 1 starts afresh
        self.value: Tensor | None = None

    def __call__(self, new: Tensor) -> Tensor:
        """Statistics of the next frame, any shape -> those to use for it."""
        if self.share < 1.0 and self.value is not None and self.value.shape == new.shape:
            new = torch.lerp(self.value, new, self.share)
        self.value = new
        return new


class Norm(nn.GroupNorm):
    """GroupNorm with the epsilon of the VQGAN."""

    #: What its statistics follow where a video is steadied, see `glare.steady`.
    steady: RunningMean | None = None

    def __init__(self, groups: int, channels: int) -> None:
        super().__init__(groups, channels, eps=1e-6)

    def forward(self, input: Tensor) -> Tensor:
        """(B,C,H,W) -> (B,C,H,W)."""
        if self.steady is None:
            return super().forward(input)
        # Of a single image. On a CPU five times as fast as `torch.var_mean`, though it makes a map besides.
        input = input.to(self.weight.dtype)
        pixels = input.shape[2] * input.shape[3]
        result, mean, rstd = torch.native_group_norm(
            input, None, None, 1, self.num_channels, pixels, self.num_groups, self.eps
        )
        mean, rstd = mean[0], rstd[0]
        new_mean, new_var = self.steadied(mean, rstd.pow(-2.0) - self.eps)
        mean, var = (  # of the result, as they would have to be
            of_groups.repeat_interleave(self.num_channels // self.num_groups)
            for of_groups in ((new_mean - mean) * rstd, (new_var + self.eps) * rstd.square() - self.eps)
        )
        if input.device.type != "cpu":
            return F.batch_norm(result, mean, var, self.weight, self.bias, eps=self.eps)
        # In its place: fresh memory costs a large map more than the arithmetic.
        places = (result, torch.empty_like(mean), torch.empty_like(var))
        torch.native_batch_norm(result, self.weight, self.bias, mean, var, False, 0.0, self.eps, out=places)
        return result

    def steadied(self, mean: Tensor, var: Tensor) -> tuple[Tensor, Tensor]:
        """The statistics of an image's groups or channels, mean and variance (G,) -> those to use."""
        if self.steady is None:
            return mean, var
        # Of variances the logarithm: a lamp makes one a hundred times as great, of which a share is soon the whole.
        mean, log_var = self.steady(torch.stack((mean, (var + self.eps).log())))
        return mean, log_var.exp() - self.eps


class ResidualBlock(nn.Module):
    """norm, swish, conv, norm, swish, conv, and a 1×1 shortcut where the width changes."""

    def __init__(self, in_channels: int, out_channels: int, groups: int) -> None:
        super().__init__()
        self.norm1 = Norm(groups, in_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.norm2 = Norm(groups, out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.shortcut = (
            nn.Conv2d(in_channels, out_channels, 1) if in_channels != out_channels else nn.Identity()
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (B,in,H,W) to (B,out,H,W)."""
        h = self.conv1(F.silu(self.norm1(x), inplace=True))
        h = self.norm2(h)  # frees the result of the first convolution before the second needs room
        h = self.conv2(F.silu(h, inplace=True))
        return h.add_(self.shortcut(x))  # type: ignore[no-any-return]


class Attention(nn.Module):
    """Single-head self-attention over all positions, scale c^-0.5, in linear memory.

    With ``grid`` keys and values are averaged onto a grid of at most ``grid`` × ``grid`` cells (linear
    spatial-reduction attention of PVT v2, Wang et al., 2022), so that the cost is linear in the pixels.
    """

    #: What the pooled map follows where a video is steadied, see `glare.steady`.
    steady: RunningMean | None = None

    def __init__(self, channels: int, groups: int, grid: int | None = None) -> None:
        super().__init__()
        self.grid = grid
        self.norm = Norm(groups, channels)
        self.q = nn.Conv2d(channels, channels, 1)
        self.k = nn.Conv2d(channels, channels, 1)
        self.v = nn.Conv2d(channels, channels, 1)
        self.proj = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Attend on a map (B,C,H,W)."""
        h = self.norm(x)
        return x + self.attend(h, self.steadied(self.pooled(h)))

    def pooled(self, h: Tensor) -> Tensor:
        """Return the map that keys and values are made from: (B,C,H,W), averaged onto the grid where there is one."""
        height, width = h.shape[2:]
        if self.grid is None or (height <= self.grid and width <= self.grid):
            return h
        return F.adaptive_avg_pool2d(h, (min(height, self.grid), min(width, self.grid)))

    def steadied(self, context: Tensor) -> Tensor:
        """The norm of a pooled map (B,C,h,w) -> that to use; a whole map stays as it is, each frame has its own."""
        return context if self.steady is None or self.grid is None else self.steady(context)

    def attend(self, h: Tensor, context: Tensor) -> Tensor:
        """Return the update of a map whose norm is ``h`` (B,C,H,W), or of a part of the map; ``context`` is pooled."""
        b, c, height, width = h.shape
        # (B,1,N,C): one head; the fused kernels never hold the N×N map.
        q, k, v = (
            t.flatten(2).mT.unsqueeze(1).contiguous() for t in (self.q(h), self.k(context), self.v(context))
        )
        out = self.average(q, k, v)
        return self.proj(out.squeeze(1).mT.reshape(b, c, height, width))  # type: ignore[no-any-return]

    @staticmethod
    def average(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Average the values (B,1,M,C), weighted by how well their keys (B,1,M,C) fit each query (B,1,N,C)."""
        if q.dtype != torch.bfloat16 or q.device.type != "cpu" or torch.is_grad_enabled():
            return F.scaled_dot_product_attention(q, k, v)
        # On a CPU with AVX512-BF16, torch's kernel is no faster in bfloat16 than in float32, but products of matrices
        # are four times as fast. So attention is computed by such products, in blocks of rows.
        keys = k.mT * k.shape[-1] ** -0.5
        rows = max(1, SCORES_AT_ONCE // (len(k) * k.shape[2]))
        return torch.cat([torch.softmax(block @ keys, -1) @ v for block in torch.split(q, rows, 2)], 2)


def fold(image: Tensor, stem: int) -> Tensor:
    """Turn squares of ``stem`` × ``stem`` pixels into channels: (B,3,H,W) -> (B,3·stem²,H/stem,W/stem)."""
    if stem == 1:
        return image
    # In any other memory format, convolutions of few channels spend half their time on reordering.
    return F.pixel_unshuffle(image, stem).contiguous(memory_format=torch.channels_last)


def unfold(folded: Tensor, stem: int) -> Tensor:
    """Undo `fold`."""
    return folded if stem == 1 else F.pixel_shuffle(folded, stem)


class Downsample(nn.Module):
    """3×3 convolution of stride 2; zeros are padded on the right and at the bottom only."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B,C,H,W) to (B,C,H/2,W/2)."""
        return self.conv(F.pad(x, (0, 1, 0, 1)))  # type: ignore[no-any-return]


class Upsample(nn.Module):
    """Nearest neighbour ×2, then a 3×3 convolution."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B,in,H,W) to (B,out,2H,2W)."""
        if torch.is_grad_enabled():
            return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))  # type: ignore[no-any-return]
        # One transposed convolution gives the same: its 4×4 kernel is the 3×3 kernel summed over the four equal
        # pixels. It takes 4/9 of the work and never stores the enlarged map. Its gradients are noisier in float32.
        weight = self.conv.weight.flip(2, 3)
        rows = F.pad(weight, (0, 0, 0, 1)) + F.pad(weight, (0, 0, 1, 0))
        kernel = F.pad(rows, (0, 1)) + F.pad(rows, (1, 0))
        return F.conv_transpose2d(x, kernel.transpose(0, 1), self.conv.bias, stride=2, padding=1)


class Level(nn.Module):
    """Residual blocks at one resolution, each followed by attention where the level has it."""

    def __init__(
        self, in_channels: int, out_channels: int, blocks: int, attention: bool, config: GLAREConfig
    ) -> None:
        super().__init__()
        groups = config.norm_groups
        self.blocks = nn.ModuleList(
            ResidualBlock(in_channels if i == 0 else out_channels, out_channels, groups)
            for i in range(blocks)
        )
        self.attentions = nn.ModuleList(
            Attention(out_channels, groups, config.attention_grid) for _ in range(blocks if attention else 0)
        )

    def __iter__(self) -> Iterator[nn.Module]:
        """Yield blocks and attentions, in the order of their use."""
        for i, block in enumerate(self.blocks):
            yield block
            if self.attentions:
                yield self.attentions[i]

    def forward(self, x: Tensor) -> Tensor:
        """Map (B,in,H,W) to (B,out,H,W)."""
        for layer in self:
            x = layer(x)
        return x


class Middle(nn.Sequential):
    """Residual block, attention, residual block at the lowest resolution."""

    def __init__(self, channels: int, config: GLAREConfig) -> None:
        super().__init__(
            ResidualBlock(channels, channels, config.norm_groups),
            Attention(channels, config.norm_groups, config.attention_grid),
            ResidualBlock(channels, channels, config.norm_groups),
        )


class Encoder(nn.Module):
    """Encoder of an image to a latent at a quarter of the grid's size, with skip features at 1/1 and 1/2 of it."""

    def __init__(self, config: GLAREConfig) -> None:
        super().__init__()
        w0, w1, w2 = config.widths
        b0, b1, b2 = config.encoder_blocks
        self.stem = config.stem
        self.conv_in = nn.Conv2d(3 * config.stem**2, w0, 3, padding=1)
        self.level0 = Level(w0, w0, b0, False, config)
        self.down0 = Downsample(w0)
        self.level1 = Level(w0, w1, b1, False, config)
        self.down1 = Downsample(w1)
        self.level2 = Level(w1, w2, b2, config.level_attention, config)
        self.middle = Middle(w2, config)
        self.norm_out = Norm(config.norm_groups, w2)
        self.conv_out = nn.Conv2d(w2, config.latent_channels, 3, padding=1)

    def forward(self, x: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Encode (B,3,H,W), multiples of `GLAREConfig.stride`: (B,latent,h,w) and the features at full and 1/2 size."""
        full = self.level0(self.conv_in(fold(x, self.stem)))
        half = self.level1(self.down0(full))
        return self.to_latent(half), (full, half)

    def to_latent(self, half: Tensor) -> Tensor:
        """Encode features at 1/2 size to the latent."""
        h = self.middle(self.level2(self.down1(half)))
        return self.conv_out(F.silu(self.norm_out(h), inplace=True))  # type: ignore[no-any-return]


class Decoder(nn.Module):
    """Decoder of a latent to an image, in four calls, since stage III uses the features in between."""

    def __init__(self, config: GLAREConfig) -> None:
        super().__init__()
        w0, w1, w2 = config.widths
        b0, b1, b2 = config.decoder_blocks
        self.conv_in = nn.Conv2d(config.latent_channels, w2, 3, padding=1)
        self.middle = Middle(w2, config)
        self.level2 = Level(w2, w2, b2, config.level_attention, config)
        up1, up0 = (w1, w0) if config.narrow_up else (w2, w1)
        self.up1 = Upsample(w2, up1)
        self.level1 = Level(up1, w1, b1, False, config)
        self.up0 = Upsample(w1, up0)
        self.level0 = Level(up0, w0, b0, False, config)
        self.norm_out = Norm(config.norm_groups, w0)
        self.stem = config.stem
        self.conv_out = nn.Conv2d(w0, 3 * config.stem**2, 3, padding=1)

    def to_quarter(self, latent: Tensor) -> Tensor:
        """Decode a latent (B,latent,h,w) to features of its size (B,C,h,w)."""
        return self.level2(self.middle(self.conv_in(latent)))  # type: ignore[no-any-return]

    def to_half(self, quarter: Tensor) -> Tensor:
        """Decode features of the latent's size (B,C,h,w) to features of twice that size (B,C',2h,2w)."""
        return self.level1(self.up1(quarter))  # type: ignore[no-any-return]

    def to_full(self, half: Tensor) -> Tensor:
        """Decode features at 1/2 size to features at full size."""
        return self.level0(self.up0(half))  # type: ignore[no-any-return]

    def image(self, full: Tensor) -> Tensor:
        """Turn features at full size (B,C,H,W) into an image (B,3,H·stem,W·stem), not clamped."""
        return unfold(self.conv_out(F.silu(self.norm_out(full), inplace=True)), self.stem)

    def forward(self, latent: Tensor) -> Tensor:
        """Decode a latent (B,latent,h,w) to an image (B,3,H,W), not clamped."""
        return self.image(self.to_full(self.to_half(self.to_quarter(latent))))

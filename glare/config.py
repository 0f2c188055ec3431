"""The widths of GLARE's networks: one frozen dataclass and three presets.

Source: Zhou et al., "GLARE: Low Light Image Enhancement via Generative Latent Feature based Codebook
Retrieval", ECCV 2024. ``base`` has the widths of the official release.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class GLAREConfig:
    """The shape of a GLARE model: all that is needed to rebuild it for its weights.

    Resolutions are those of the network's grid: with ``stem`` 1 a position of it is a pixel, with ``stem`` 2 a square
    of 2×2 pixels.

    Args:
        stem: side of the square of pixels that is folded into channels before an encoder and unfolded behind a decoder
            (pixel unshuffle and shuffle, Shi et al., CVPR 2016). Layers of few channels at full size are reads and
            writes more than arithmetic; 1 has them, as published.
        channels: width at full resolution of the codebook's encoder and decoder, the conditional encoder and
            the second decoder.
        multipliers: width at 1/1, 1/2 and 1/4 resolution as a multiple of ``channels``.
        encoder_blocks: residual blocks at each resolution of an encoder.
        decoder_blocks: residual blocks at each resolution of a decoder, in the same order (1/1, 1/2, 1/4).
        narrow_up: an upsampling already gives the width of the level it leads to, and not, as published, that of the
            level it comes from, which costs twice as much there.
        fusion_blocks: residual blocks behind the last mix-up of stage III, none as published: the input's detail
            comes in there together with its noise, and only behind it can the two be told apart.
        detail_channels: width of the last layers of stage III, which see the unfolded image beside the input, pixel by
            pixel; 0 has none, as published. What a stem folds away is hard to tell from noise without them.
        norm_groups: groups of every GroupNorm.
        attention_grid: ``None`` lets attention look at every pixel of the 1/4 resolution map, as published; a
            number pools keys and values onto a grid of that many cells a side, so that the cost grows with the
            pixels and not with their square (linear spatial-reduction attention of PVT v2, Wang et al., 2022).
        level_attention: attention after each block at 1/4 resolution, as published, beside the one in the middle.
        latent_channels: channels of the latent and of a code.
        codes: entries of the codebook.
        condition_channels: channels of the feature that drives the flow.
        flow_levels: groups of flow steps.
        flow_plain_steps: steps without coupling that open each group.
        flow_steps: steps with coupling in each group.
        flow_hidden: width of the coupling networks.
        flow_scale_floor: the least scale of a coupling. The published 1e-4 lets a single inverse step magnify 10⁴
            times, which overflows on images unlike the training's; a greater floor bounds it.
        latent_limit: the restored latent is kept within ± this number, ``None`` leaves it free, as published. Codes
            of natural images are small; an inverse flow knows no bound on images unlike those it has seen.
        warp_levels: where stage III borrows the codebook decoder's features: 0 is full resolution, 1 is 1/2, 2 is 1/4.
            The codebook's decoder runs as far as the first of them.
        warp_channels: width to which those features are reduced before the deformable convolution, whose cost on
            a CPU goes with it; ``None`` keeps them whole, as published.
        warp_groups: offset groups of the deformable convolution.

    Raises:
        ValueError: naming the argument that is out of range.

    >>> GLAREConfig(channels=32).widths
    (32, 64, 128)
    >>> GLAREConfig.preset("tiny").stride
    8
    """

    stem: int = 1
    channels: int = 128
    multipliers: tuple[int, int, int] = (1, 2, 4)
    encoder_blocks: tuple[int, int, int] = (2, 2, 2)
    decoder_blocks: tuple[int, int, int] = (3, 3, 3)
    narrow_up: bool = False
    fusion_blocks: int = 0
    detail_channels: int = 0
    norm_groups: int = 32
    attention_grid: int | None = None
    level_attention: bool = True
    latent_channels: int = 3
    codes: int = 8192
    condition_channels: int = 64
    flow_levels: int = 2
    flow_plain_steps: int = 2
    flow_steps: int = 12
    flow_hidden: int = 64
    flow_scale_floor: float = 1e-4
    latent_limit: float | None = None
    warp_levels: tuple[int, ...] = (0, 1)
    warp_channels: int | None = None
    warp_groups: int = 4

    def __post_init__(self) -> None:
        for name in ("multipliers", "encoder_blocks", "decoder_blocks"):
            value = tuple(getattr(self, name))
            if len(value) != 3 or any(not isinstance(v, int) or v < 1 for v in value):
                raise ValueError(f"Expected `{name}` to be three positive integers but got {value}.")
            object.__setattr__(self, name, value)
        object.__setattr__(self, "warp_levels", tuple(self.warp_levels))
        if not self.warp_levels or any(level not in (0, 1, 2) for level in self.warp_levels):
            raise ValueError(f"Expected `warp_levels` to be out of 0, 1 and 2 but got {self.warp_levels}.")
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            least = 0 if field.name in ("fusion_blocks", "detail_channels") else 1
            if field.type == "int" and (not isinstance(value, int) or value < least):
                raise ValueError(
                    f"Expected `{field.name}` to be an integer of at least {least} but got {value!r}."
                )
        if self.latent_channels < 2:
            raise ValueError(
                f"Expected `latent_channels` to be at least 2, to be split, but got {self.latent_channels}."
            )
        for width in self.widths:
            if width % self.norm_groups:
                raise ValueError(
                    f"Expected every width in {self.widths} to be a multiple of `norm_groups`={self.norm_groups}."
                )
        if self.attention_grid is not None and self.attention_grid < 1:
            raise ValueError(
                f"Expected `attention_grid` to be None or at least 1 but got {self.attention_grid}."
            )
        if self.warp_channels is not None and self.warp_channels < 1:
            raise ValueError(
                f"Expected `warp_channels` to be None or at least 1 but got {self.warp_channels}."
            )
        if any((self.warp_channels or self.widths[level]) % self.warp_groups for level in self.warp_levels):
            raise ValueError(
                f"Expected the warped widths to be multiples of `warp_groups`={self.warp_groups}."
            )

    @property
    def stride(self) -> int:
        """Side in pixels of one position of the latent; inside the network an image's sides are multiples of it."""
        return 4 * self.stem

    @property
    def widths(self) -> tuple[int, int, int]:
        """Channels at full, 1/2 and 1/4 resolution."""
        a, b, c = (self.channels * m for m in self.multipliers)
        return a, b, c

    @classmethod
    def preset(cls, name: str) -> GLAREConfig:
        """The configuration called ``name``: ``"tiny"``, ``"small"`` or ``"base"`` (the official widths)."""
        try:
            return PRESETS[name]
        except KeyError:
            raise ValueError(f"Expected a preset out of {sorted(PRESETS)} but got {name!r}.") from None

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in dataclasses.asdict(self).items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> GLAREConfig:
        """Undo `to_dict`; an unknown name is an error, a missing one takes its default."""
        known = {field.name for field in dataclasses.fields(cls)}
        if unknown := sorted(set(values) - known):
            raise ValueError(f"Unknown entries in the configuration: {unknown}. Known are {sorted(known)}.")
        plain: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        return cls(**plain)


PRESETS: dict[str, GLAREConfig] = {
    "base": GLAREConfig(),
    "small": GLAREConfig(
        channels=32,
        norm_groups=16,
        attention_grid=16,
        level_attention=False,
        codes=4096,
        flow_steps=8,
        flow_scale_floor=0.3,
        latent_limit=8.0,
    ),
    "tiny": GLAREConfig(
        stem=2,
        channels=24,
        encoder_blocks=(2, 2, 2),
        decoder_blocks=(1, 2, 1),
        narrow_up=True,
        fusion_blocks=1,
        detail_channels=24,
        norm_groups=8,
        attention_grid=16,
        level_attention=False,
        latent_channels=8,
        codes=2048,
        condition_channels=32,
        flow_plain_steps=1,
        flow_steps=2,
        flow_hidden=32,
        flow_scale_floor=0.3,
        latent_limit=8.0,
        warp_levels=(2,),
        warp_channels=8,
        warp_groups=1,
    ),
}

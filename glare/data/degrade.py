"""A physical low-light simulator: what a camera records of a well-lit scene when there is little light.

The photograph is taken back to linear light, dimmed, tinted, counted as electrons (Poisson shot noise), read
out (Gaussian read noise) and stored again as 8-bit sRGB: the noise model of Foi et al., "Practical
Poissonian-Gaussian noise modeling and fitting for single-image raw-data", IEEE TIP 2008. There is no
demosaicing and no denoising, so the noise is white and harsher than a phone's.
"""

import hashlib

import torch
from torch import Tensor
from torchvision.io import decode_jpeg, encode_jpeg

LEVELS = {"mild": 0.15, "dark": 0.04, "extreme": 0.012}
"""Named light levels: the exposure in linear light around which a level's images lie."""


def srgb_to_linear(image: Tensor) -> Tensor:
    """Decode sRGB values in [0,1] of any shape to linear light in [0,1] (IEC 61966-2-1)."""
    return torch.where(image <= 0.04045, image / 12.92, ((image + 0.055) / 1.055) ** 2.4)


def linear_to_srgb(light: Tensor) -> Tensor:
    """Encode linear light in [0,1] of any shape as sRGB values in [0,1] (IEC 61966-2-1)."""
    # The clamp keeps the unused branch's gradient finite at black.
    curve = 1.055 * light.clamp(min=0.0031308) ** (1 / 2.4) - 0.055
    return torch.where(light <= 0.0031308, light * 12.92, curve)


def generator_for(*key: object) -> torch.Generator:
    """Return a CPU generator that is a function of ``key`` alone, e.g. ``(seed, image name, level)``.

    Noise drawn from it does not depend on the order of the images or on what else was drawn.
    """
    digest = hashlib.sha256("\0".join(map(str, key)).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)


def _log_uniform(low: float, high: float, generator: torch.Generator | None) -> float:
    position = torch.rand((), generator=generator).item()
    return float(low * (high / low) ** position)


def sample_exposure(level: str, generator: torch.Generator | None = None) -> float:
    """Draw an exposure around a level of `LEVELS`: log-uniform over 0.75 to 1.33 times the level.

    Raises:
        ValueError: if `level` is not a key of `LEVELS`.

    >>> 0.03 <= sample_exposure("dark") <= 0.06
    True
    """
    if level not in LEVELS:
        raise ValueError(f"Expected argument `level` to be one of {', '.join(LEVELS)} but got {level!r}.")
    return LEVELS[level] * _log_uniform(3 / 4, 4 / 3, generator)


def sample_cast(generator: torch.Generator | None = None, strength: float = 0.1) -> Tensor:
    """Draw a colour cast: (3,) gains of red, green and blue, uniform in [1 - strength, 1 + strength]."""
    return 1 + strength * (2 * torch.rand(3, generator=generator) - 1)


def degrade(
    image: Tensor,
    *,
    exposure: float | Tensor,
    full_well: float = 800.0,
    read_noise: float = 2.0,
    cast: Tensor | None = None,
    generator: torch.Generator | None = None,
    noise: bool = True,
    quantize: bool = True,
) -> Tensor:
    """Simulate a photograph of the same scene in little light.

    Args:
        image: (..., 3, H, W) float, sRGB in [0,1].
        exposure: factor on linear light, above 0; a number, or a tensor of the leading shape (...).
        full_well: electrons that a white pixel collects at exposure 1.
        read_noise: standard deviation of the read noise, in electrons.
        cast: gains of red, green and blue in linear light, (3,) or (..., 3); none by default.
        generator: source of the noise; the same state gives the same image.
        noise: False leaves out shot and read noise.
        quantize: False leaves out the rounding to 8 bits.

    Returns:
        A tensor like `image`, sRGB in [0,1].

    Raises:
        ValueError: if the shape, the dtype, the exposure or the noise parameters are out of range.

    >>> day = torch.full((3, 64, 64), 0.5)
    >>> night = degrade(day, exposure=0.04, generator=generator_for("a.jpg", 0))
    >>> round(night.mean().item(), 2), round(night.std().item(), 2)
    (0.09, 0.03)
    """
    if image.ndim < 3 or image.shape[-3] != 3 or not image.is_floating_point():
        raise ValueError(
            f"Expected argument `image` to be float of shape (..., 3, H, W) "
            f"but got {image.dtype} of shape {tuple(image.shape)}."
        )
    factor = torch.as_tensor(exposure, dtype=image.dtype, device=image.device)
    if not bool((factor > 0).all()):
        raise ValueError(f"Expected argument `exposure` to be above 0 but got {exposure}.")
    if full_well <= 0 or read_noise < 0:
        raise ValueError(
            f"Expected arguments `full_well` above 0 and `read_noise` of at least 0 "
            f"but got {full_well} and {read_noise}."
        )
    light = srgb_to_linear(image) * factor[..., None, None, None]
    if cast is not None:
        light = light * cast.to(light)[..., :, None, None]
    if noise:
        electrons = torch.poisson(light * full_well, generator=generator)
        read = torch.randn(light.shape, generator=generator, dtype=light.dtype, device=light.device)
        light = (electrons + read_noise * read) / full_well
    dark = linear_to_srgb(light.clamp(0, 1))
    return (dark * 255).round() / 255 if quantize else dark


def random_degrade(image: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Darken one image as some camera might on some night: the draw for training.

    Exposure is log-uniform over 0.008 to 0.3, the full well over 300 to 5000 electrons, read noise uniform
    over 1 to 6 electrons, the cast up to ±10 %; three images in ten are stored as JPEG of quality 60 to 95.

    Args:
        image: (3, H, W) float on the CPU, sRGB in [0,1].
        generator: source of every draw.

    Returns:
        (3, H, W) float, sRGB in [0,1], on the 8-bit grid.
    """
    dark = degrade(
        image,
        exposure=_log_uniform(0.008, 0.3, generator),
        full_well=_log_uniform(300.0, 5000.0, generator),
        read_noise=1 + 5 * float(torch.rand((), generator=generator)),
        cast=sample_cast(generator),
        generator=generator,
    )
    if float(torch.rand((), generator=generator)) < 0.3:
        quality = int(torch.randint(60, 96, (), generator=generator))
        stored = (dark * 255).round().to(torch.uint8)
        dark = decode_jpeg(encode_jpeg(stored, quality=quality)).to(image.dtype) / 255
    return dark

"""Images as the network wants them, and back to what came."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor


def log_input(image: Tensor) -> Tensor:
    """What the conditional encoder sees: log(x + 0.001), any shape, for x in [0,1] within [-6.91, 0.001]."""
    return torch.log(torch.clamp(image + 1e-3, min=1e-3))


def pad(image: Tensor, multiple: int, margin: int = 0) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """Pad (B,C,H,W) at the right and the bottom, by at least ``margin``, to multiples of ``multiple``.

    The picture is mirrored where it is larger than the padding and its last row or column repeated where it is
    not, so that no edge is invented.

    Returns:
        The padded image, and the function that cuts any (...,H',W') of the padded size back to (...,H,W).
    """
    height, width = image.shape[-2:]
    bottom, right = (-(size + margin) % multiple + margin for size in (height, width))
    if right:
        image = F.pad(image, (0, right, 0, 0), mode="reflect" if right < width else "replicate")
    if bottom:
        image = F.pad(image, (0, 0, 0, bottom), mode="reflect" if bottom < height else "replicate")
    return image, lambda padded: padded[..., :height, :width]

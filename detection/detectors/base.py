"""The protocol of a detector, and the fingerprint of its weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import torch
from torch import nn

from detection.cache import fingerprint
from detection.data.core import Detections, Pixels


@runtime_checkable
class Detector(Protocol):
    """Anything that finds objects in images.

    >>> class Nothing:
    ...     names = ("Cat", "Dog")
    ...     def __call__(self, images):
    ...         return [Detections(np.zeros((0, 4)), np.zeros(0), np.zeros(0, int)) for _ in images]
    >>> isinstance(Nothing(), Detector)
    True

    One with a ``str`` attribute ``identity``, which changes with whatever changes its results, can be kept in a
    `detection.cache.Cache`; what a ``str`` attribute ``settings`` says of that is told under a table.
    """

    @property
    def names(self) -> Sequence[str]:
        """The names of the classes that the labels number; matched by name to those of a data set."""

    def __call__(self, images: Sequence[Pixels]) -> list[Detections]:
        """Find objects in (H, W, 3) uint8 RGB images, each independently of the others.

        Returns:
            One `Detections` per image, boxes in its pixels.
        """


def weights_of(network: nn.Module) -> str:
    """Return the fingerprint of all parameters and buffers of a network, names and all.

    Raises:
        ValueError: if one of them is not finite: such a network finds nothing, or anything, and says nothing.
    """
    parts: list[str | bytes] = []
    for name, tensor in network.state_dict().items():
        if not torch.isfinite(tensor).all():
            raise ValueError(f"Expected a detector of finite weights but {name} holds NaN or infinity.")
        parts += [f"{name} {tensor.dtype} {tuple(tensor.shape)}"]
        parts += [tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()]
    return fingerprint(*parts)

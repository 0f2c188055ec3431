"""Detectors: the protocol, torchvision's own, and one place to get any detector by name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torchvision.models import detection as zoo
from torchvision.models import get_model, get_model_weights, list_models

from detection.boxes import Detections
from detection.dataset import Pixels

BUILT_IN = "yolo26n-exdark"
"""The detector in the package: yolo26n with ExDark's twelve classes."""


@runtime_checkable
class Detector(Protocol):
    """Anything that finds objects in images."""

    @property
    def names(self) -> Sequence[str]:
        """The names of the classes that the labels number; matched by name to those of a data set."""

    def __call__(self, images: Sequence[Pixels]) -> list[Detections]:
        """Find objects in (H, W, 3) uint8 RGB images, each independently of the others.

        Returns:
            One `Detections` per image, boxes in its pixels.
        """


def detector(name: str = BUILT_IN, *, weights: str | Path | None = None, device: str = "cpu") -> Detector:
    """Return a detector by name.

    Args:
        name: ``yolo26n-exdark`` (in the package), a detector of torchvision such as
            ``fasterrcnn_mobilenet_v3_large_fpn``, or any name or path ultralytics takes. A checkpoint of
            ultralytics is a pickle: name only files you trust.
        weights: for torchvision's detectors a file with a ``state_dict``; by default torchvision downloads
            its own.
        device: where it computes.

    Raises:
        ValueError: if `weights` is given for another detector than torchvision's.
        FileNotFoundError: if ultralytics knows no such name or file.
    """
    if name in list_models(module=zoo):
        return TorchvisionDetector(name, weights=weights, device=device)
    if weights is not None:
        raise ValueError(f"Expected argument `weights` with a detector of torchvision but got {name!r}.")
    from detection import yolo  # ultralytics is asked for by those who use it, and no one else

    return yolo.built_in(device) if name == BUILT_IN else yolo.YOLODetector.from_name(name, device)


class TorchvisionDetector:
    """A detector of `torchvision.models.detection`, trained on COCO (BSD-3-Clause).

    Args:
        name: torchvision's name of it, e.g. ``retinanet_resnet50_fpn``.
        weights: a file with its ``state_dict``, read with ``weights_only=True``; by default torchvision
            downloads its own.
        device: where it computes.

    Raises:
        RuntimeError: if the file's tensors are not those of the model.
    """

    def __init__(self, name: str, *, weights: str | Path | None = None, device: str = "cpu") -> None:
        best: Any = get_model_weights(name).DEFAULT
        self._names = tuple(best.meta["categories"])
        if weights is None:
            model = get_model(name, weights=best)
        else:
            model = get_model(name, weights=None, weights_backbone=None, num_classes=len(self._names))
            model.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
        self._model = model.eval().to(device)
        self._device = device

    @property
    def names(self) -> Sequence[str]:
        """COCO's categories as torchvision numbers them, background and gaps included."""
        return self._names

    @torch.inference_mode()
    def __call__(self, images: Sequence[Pixels]) -> list[Detections]:
        """Find objects in (H, W, 3) uint8 RGB images; see `Detector`."""
        batch = [torch.tensor(image).permute(2, 0, 1).to(self._device).float() / 255 for image in images]
        return [
            Detections(
                found["boxes"].cpu().numpy().astype(np.float64),
                found["scores"].cpu().numpy().astype(np.float64),
                found["labels"].cpu().numpy().astype(np.int64),
            )
            for found in self._model(batch)
        ]

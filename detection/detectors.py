"""Detectors: the protocol, torchvision's own, and one place to get any detector by name."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
import torchvision
from torch import nn
from torchvision.models import detection as zoo
from torchvision.models import get_model, get_model_weights, list_models

from detection.boxes import Detections
from detection.cache import fingerprint
from detection.dataset import Pixels
from detection.enhancers import one_line, source, yours

BUILT_IN = "yolo26n-exdark"
"""The detector in the package: yolo26n with ExDark's twelve classes."""


@runtime_checkable
class Detector(Protocol):
    """Anything that finds objects in images.

    One with a ``str`` attribute ``identity``, which changes with whatever changes its results, can be kept in a
    `detection.cache.Cache`.
    """

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
        name: one of

            - ``yolo26n-exdark`` (in the package);
            - a detector of torchvision such as ``fasterrcnn_mobilenet_v3_large_fpn``, or
              ``fasterrcnn_mobilenet_v3_large_fpn=FILE`` with its `weights`;
            - ``module:callable``, a function of yours that takes nothing and returns a `Detector`;
            - any name or path ultralytics takes. A checkpoint of ultralytics is a pickle: name only files you
              trust.
        weights: for torchvision's detectors a file with a ``state_dict``; by default torchvision downloads
            its own.
        device: where it computes; yours decides for itself.

    Raises:
        ValueError: if `weights` is given for another detector than torchvision's, the module has no such
            callable, what that returns is no `Detector`, or the file is none.
        FileNotFoundError: if ultralytics knows no such name or file.
        ModuleNotFoundError: if the module is not there.
    """
    architecture, _, file = name.partition("=")
    if architecture in list_models(module=zoo):
        return TorchvisionDetector(architecture, weights=weights or file or None, device=device)
    if weights is not None:
        raise ValueError(f"Expected argument `weights` with a detector of torchvision but got {name!r}.")
    if re.fullmatch(r"[\w.]+:\w+", name):
        found = yours(name)()
        if not isinstance(found, Detector):
            raise ValueError(f"Expected {name!r} to return a Detector but got {type(found).__name__}.")
        if not hasattr(found, "identity"):
            return _Yours(found, f"{name} {source(name.partition(':')[0])}")
        return found
    from detection import yolo  # ultralytics is asked for by those who use it, and no one else

    return yolo.built_in(device) if name == BUILT_IN else yolo.YOLODetector.from_name(name, device)


@dataclass(frozen=True)
class _Yours:
    """A detector from elsewhere, with an identity."""

    detect: Detector
    identity: str

    @property
    def names(self) -> Sequence[str]:
        return self.detect.names

    def __call__(self, images: Sequence[Pixels]) -> list[Detections]:
        return self.detect(images)


def weights_of(network: nn.Module) -> str:
    """Return the fingerprint of all parameters and buffers of a network, names and all."""
    parts: list[str | bytes] = []
    for name, tensor in network.state_dict().items():
        parts += [f"{name} {tensor.dtype} {tuple(tensor.shape)}"]
        parts += [tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()]
    return fingerprint(*parts)


class TorchvisionDetector:
    """A detector of `torchvision.models.detection`, trained on COCO (BSD-3-Clause).

    Args:
        name: torchvision's name of it, e.g. ``retinanet_resnet50_fpn``.
        weights: a file with its ``state_dict``, read with ``weights_only=True``; by default torchvision
            downloads its own.
        device: where it computes.

    Attributes:
        identity: changes with the weights and the program.

    Raises:
        FileNotFoundError: if the file is not there.
        ValueError: if it holds no tensors, or not those of the model.
    """

    def __init__(self, name: str, *, weights: str | Path | None = None, device: str = "cpu") -> None:
        best: Any = get_model_weights(name).DEFAULT
        self._names = tuple(best.meta["categories"])
        if weights is None:
            model = get_model(name, weights=best)
        else:
            model = get_model(name, weights=None, weights_backbone=None, num_classes=len(self._names))
            try:
                model.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
            except FileNotFoundError:
                raise
            except Exception as error:  # whatever a damaged file leads the unpickler to
                raise ValueError(
                    f"Expected weights of {name} at {weights} but got stuck: {one_line(error)}"
                ) from error
        self._model = model.eval().to(device)
        self._device = device
        self.identity = (
            f"{name} {weights_of(model)}, torch {torch.__version__} torchvision {torchvision.__version__} "
            f"on {torch.device(device).type}"
        )

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

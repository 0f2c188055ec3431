"""Detectors: the protocol, those of torchvision and ultralytics, and `detector` to get any of them by name."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torchvision.models import detection as zoo
from torchvision.models import list_models

from detection.data.core import Detections, Pixels
from detection.detectors.base import Detector
from detection.detectors.torchvision import TorchvisionDetector
from detection.enhancers import source, yours

BUILT_IN = "yolo26n-exdark"
"""The detector in the package: yolo26n with ExDark's twelve classes."""


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

    >>> from detection import sample_set
    >>> find = detector()
    >>> (found,) = find([sample_set().samples[0].load()])
    >>> [find.names[label] for label, score in zip(found.labels, found.scores) if score > 0.5]
    ['Bus', 'People', 'People', 'People', 'People']
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
    # Imported only when a YOLO is asked for, because of its licence.
    from detection.detectors.ultralytics import YOLODetector, built_in

    return built_in(device) if name == BUILT_IN else YOLODetector.from_name(name, device)


@dataclass(frozen=True)
class _Yours:
    """A detector from elsewhere, with an identity."""

    detect: Detector
    identity: str

    @property
    def names(self) -> Sequence[str]:
        return self.detect.names

    @property
    def settings(self) -> str:
        return str(getattr(self.detect, "settings", ""))

    def __call__(self, images: Sequence[Pixels]) -> list[Detections]:
        return self.detect(images)

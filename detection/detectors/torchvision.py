"""Detectors of torchvision, which are BSD-3-Clause."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision
from torchvision.models import get_model, get_model_weights

from detection.data.core import Detections, Pixels
from detection.detectors.base import weights_of
from detection.faults import one_line


class TorchvisionDetector:
    """A detector of `torchvision.models.detection`, trained on COCO (BSD-3-Clause).

    Args:
        name: torchvision's name of it, e.g. ``retinanet_resnet50_fpn``.
        weights: a file with its ``state_dict``, read with ``weights_only=True``; by default torchvision
            downloads its own.
        device: where it computes.

    Attributes:
        identity: changes with the weights, the settings and the program.
        settings: what it does besides, in words for a reader of its results.

    Raises:
        FileNotFoundError: if the file is not there.
        ValueError: if it holds no tensors, or not those of the model.

    >>> import tempfile
    >>> name, file = "ssdlite320_mobilenet_v3_large", Path(tempfile.mkdtemp()) / "random.pth"
    >>> torch.save(get_model(name, weights=None, weights_backbone=None).state_dict(), file)
    >>> TorchvisionDetector(name, weights=file).names[17:19]
    ('cat', 'dog')
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
            except Exception as error:  # a damaged file may lead the unpickler to any error
                raise ValueError(
                    f"Expected weights of {name} at {weights} but got stuck: {one_line(error)}"
                ) from error
        self._model = model.eval().to(device)
        self._device = device
        heads = getattr(model, "roi_heads", model)
        self.settings = (
            f"{min(model.transform.min_size)} to {model.transform.max_size} pixels, NMS at an IoU of "
            f"{heads.nms_thresh}, float32, the best {heads.detections_per_img} boxes from a score of "
            f"{heads.score_thresh}"
        )
        self.identity = (
            f"{name} {weights_of(model)}, {self.settings}, torch {torch.__version__} "
            f"torchvision {torchvision.__version__} on {torch.device(device).type}"
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

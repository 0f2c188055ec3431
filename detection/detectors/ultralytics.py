"""YOLO detectors through ultralytics, which is licensed under AGPL-3.0; so are the weights in the package.

Only this file and `detection.hooks` import ultralytics; without them its licence does not apply.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import nn
from torchvision.ops import box_convert

from detection.cache import fingerprint
from detection.data.classes import COCO_CLASSES, EXDARK_CLASSES, class_map
from detection.data.core import Detections, Pixels
from detection.detectors.base import weights_of
from detection.faults import one_line
from detection.timing import threads

# Without these, importing ultralytics looks for a network and may install packages.
os.environ.setdefault("YOLO_OFFLINE", "true")
os.environ.setdefault("YOLO_AUTOINSTALL", "false")
try:
    from ultralytics import __version__ as ultralytics_version
    from ultralytics.cfg import get_cfg
    from ultralytics.models.yolo.detect import DetectionTrainer
    from ultralytics.models.yolo.model import YOLO as YOLO  # explicitly: it is imported from here
    from ultralytics.utils import DEFAULT_CFG_DICT
    from ultralytics.utils.downloads import GITHUB_ASSETS_NAMES
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "YOLO detectors need ultralytics (AGPL-3.0): pip install 'glare-torch[detection]'."
    ) from error

WEIGHTS = Path(__file__).parent / "weights"
# Every box that could matter to a precision-recall curve; COCO counts the best 100 of an image.
_MIN_SCORE, _MAX_BOXES, _IMAGE_SIZE = 0.001, 300, 640
_NMS_IOU = 0.7  # where the model has no end-to-end head
# What ultralytics is asked for, whatever its defaults are; the precision has had two names.
_PRECISION: dict[str, Any] = {"quantize": 32} if "quantize" in DEFAULT_CFG_DICT else {"half": False}
_ASKED: dict[str, Any] = {
    "conf": _MIN_SCORE,
    "max_det": _MAX_BOXES,
    "iou": _NMS_IOU,
    "agnostic_nms": False,
    "augment": False,
    "rect": True,
    **_PRECISION,
}


class YOLODetector:
    """A YOLO model of ultralytics, and everything that changes what it finds, which is not left to ultralytics.

    A model with an end-to-end head, such as YOLO26, is asked by that one, which needs no non-maximum suppression.

    Args:
        model: the model, its class names set.
        device: where it computes.
        image_size: the pixels of the longer side at which it looks at an image.

    Attributes:
        identity: changes with the weights, the settings and the program.
        settings: what it was asked for, in words for a reader of its results.

    Raises:
        ValueError: if a weight is not finite.
    """

    def __init__(self, model: YOLO, device: str = "cpu", image_size: int = _IMAGE_SIZE) -> None:
        self._model = model
        # Now, since ultralytics folds the normalisation into the convolutions at the first image.
        network: Any = model.model
        weights = weights_of(network) if isinstance(network, nn.Module) else fingerprint(Path(str(network)))
        self._asked = {**_ASKED, "imgsz": image_size, "device": device}
        end_to_end = getattr(_head(network), "one2one_cv2", None) is not None
        if end_to_end:  # left out elsewhere: ultralytics warns of it, and an exported file has its own
            self._asked["nms"] = False
        suppressed = "end-to-end head without NMS" if end_to_end else f"NMS at an IoU of {_NMS_IOU}"
        if not isinstance(network, nn.Module):
            suppressed = f"NMS at an IoU of {_NMS_IOU}, unless the file has another"
        self.settings = (
            f"{image_size} pixels on the longer side, padded to a rectangle, {suppressed}, float32, the best "
            f"{_MAX_BOXES} boxes from a score of {_MIN_SCORE}"
        )
        self.identity = (
            f"{type(network).__name__} {weights}, {self.settings}, "
            f"ultralytics {ultralytics_version} torch {torch.__version__} on {torch.device(device).type}"
        )

    @classmethod
    def from_name(cls, name: str | Path, device: str = "cpu") -> YOLODetector:
        """Load any model ultralytics knows by name or path; a ``.pt`` is a pickle: name only what you trust.

        Only what is one of ultralytics' own names is downloaded where there is no such file.

        Raises:
            FileNotFoundError: if ultralytics knows no such name or file.
            ValueError: if the file is damaged, or holds no detector.
        """
        path = Path(name)
        own = {str(name), f"{path.stem}u.pt"} & GITHUB_ASSETS_NAMES  # yolov5s.pt is yolov5su.pt today
        # ultralytics would ask GitHub for any other name of a checkpoint.
        if path.suffix == ".pt" and not (own or path.exists() or "://" in str(name)):
            raise FileNotFoundError(f"Expected a checkpoint at {name} but there is none.")
        try:
            model = YOLO(str(name), task="detect")
            found = cls(model, device)
            found.names  # noqa: B018 - loads what is no checkpoint, such as an ONNX file
        except FileNotFoundError:
            raise
        except Exception as error:  # a damaged file may lead the unpickler to any error
            raise ValueError(f"Expected a detector at {name} but got stuck: {one_line(error)}") from error
        if model.task != "detect":
            raise ValueError(f"Expected a detector at {name} but got a model for the task {model.task!r}.")
        return found

    @classmethod
    def from_network(cls, network: Any, device: str = "cpu", image_size: int = _IMAGE_SIZE) -> YOLODetector:
        """Wrap a ``DetectionModel`` that was built or trained here, its class names set."""
        model = YOLO(str(WEIGHTS / "yolo26n-exdark.yaml"), task="detect")
        model.model = network
        return cls(model, device, image_size)

    @property
    def network(self) -> Any:
        """The ``DetectionModel``, for `train` and `keep_exdark_classes`."""
        return self._model.model

    @property
    def names(self) -> Sequence[str]:
        """The classes the model was trained on."""
        return tuple(self._model.names.values())

    def __call__(self, images: Sequence[Pixels]) -> list[Detections]:
        """Find objects in (H, W, 3) uint8 RGB images; see `Detector`."""
        # One by one: ultralytics pads the images of a batch alike, so a neighbour could change a result.
        number = torch.get_num_threads()
        with threads(number):
            if self._model.predictor is None:
                # Ultralytics sets torch's threads when it sets itself up: not between two images.
                self._detect(np.zeros((64, 64, 3), np.uint8))
                torch.set_num_threads(number)
            return [self._detect(image) for image in images]

    def _detect(self, image: Pixels) -> Detections:
        results: Any = self._model.predict(
            np.ascontiguousarray(image[..., ::-1]),  # ultralytics takes arrays as BGR
            verbose=False,
            **self._asked,
        )
        found = results[0].boxes
        return Detections(
            found.xyxy.cpu().numpy().astype(np.float64),
            found.conf.cpu().numpy().astype(np.float64),
            found.cls.cpu().numpy().astype(np.int64),
        )


def _head(network: Any) -> Any:
    """The last layer of a ``DetectionModel``; None of what is none, such as the name of an ONNX file."""
    layers: Any = network.model if isinstance(network, nn.Module) else [None]
    return layers[-1]


def built_in(device: str = "cpu", weights: Path = WEIGHTS) -> YOLODetector:
    """Return the twelve-class detector of the package, loaded from safetensors without unpickling.

    Args:
        device: where it computes.
        weights: the folder with ``yolo26n-exdark.safetensors`` and ``yolo26n-exdark.yaml``.

    Raises:
        FileNotFoundError: if the files are not there.
        RuntimeError: if the tensors are not those of the architecture.
    """
    architecture = weights / "yolo26n-exdark.yaml"
    tensors = load_file(weights / "yolo26n-exdark.safetensors")
    model = YOLO(str(architecture), task="detect")
    network: Any = model.model
    keep_exdark_classes(network)
    network.load_state_dict(tensors, strict=True)
    network.eval()
    return YOLODetector(model, device)


def keep_exdark_classes(network: Any) -> None:
    """Turn an eighty-class COCO ``DetectionModel`` into one with ExDark's twelve classes, in place.

    The rows of the twelve classes are kept in the last 1×1 convolution of every class branch, of the
    one-to-many and, where there is one, of the one-to-one head. A model *built* with twelve classes has
    narrower branches and takes no weights of yolo26n, so this is also how the built-in detector is built
    before it is loaded.

    Raises:
        ValueError: if the network does not have COCO's eighty classes.
    """
    head = network.model[-1]
    if head.nc != len(COCO_CLASSES):
        raise ValueError(
            f"Expected argument `network` to have {len(COCO_CLASSES)} classes but got {head.nc}."
        )
    rows = torch.from_numpy(class_map(EXDARK_CLASSES, COCO_CLASSES))
    for branches in (head.cv3, getattr(head, "one2one_cv3", None)):
        for branch in branches or ():
            branch[-1] = _keep_rows(branch[-1], rows)
    head.nc = len(rows)
    head.no = head.nc + 4 * head.reg_max
    network.nc = head.nc
    network.names = dict(enumerate(EXDARK_CLASSES))


def _keep_rows(layer: nn.Conv2d, rows: torch.Tensor) -> nn.Conv2d:
    kept = nn.Conv2d(layer.in_channels, len(rows), kernel_size=1).to(layer.weight)
    with torch.no_grad():
        kept.weight.copy_(layer.weight[rows])
        if layer.bias is not None and kept.bias is not None:
            kept.bias.copy_(layer.bias[rows])
    return kept


def train(network: Any, **settings: Any) -> Any:
    """Train a ``DetectionModel`` further with ultralytics' own trainer and loss.

    Args:
        network: where to start; it is not changed. Ultralytics by itself would build a new one for the number
            of classes, narrower in its class branches than one cut down by `keep_exdark_classes`.
        settings: of ultralytics' trainer, e.g. ``data``, ``epochs`` and ``lr0``.

    Returns:
        The running average of the weights, which is what ultralytics saves.
    """

    class Trainer(DetectionTrainer):
        def get_model(self, cfg: Any = None, weights: Any = None, verbose: bool = True) -> Any:
            return deepcopy(network).requires_grad_(True)

    trainer: Any = Trainer(overrides={"model": "yolo26n.yaml", **settings})
    trainer.train()
    return trainer.ema.ema.float().eval()


def training_loss(
    checkpoint: str | Path,
) -> tuple[Callable[[torch.Tensor, list[torch.Tensor], list[torch.Tensor]], torch.Tensor], list[str]]:
    """Return the loss that a YOLO is trained by, the network frozen, and the names of its classes.

    Of a head with two branches the one-to-many branch counts, since ultralytics lets no gradient through the other.

    Args:
        checkpoint: any model ultralytics knows by name or path; a ``.pt`` is a pickle: name only what you trust.

    Returns:
        images (B,3,H,W) in [0,1], H and W multiples of 32, RGB, and for each image the numbers of the classes (N,) and
        the boxes (N,4), x1, y1, x2, y2 in pixels -> a scalar, which no larger batch makes larger; differentiable. And
        the names.
    """
    model = YOLO(str(checkpoint), task="detect")
    network: Any = model.model
    network.args = get_cfg()
    network.eval().requires_grad_(False)  # the statistics of the normalisation stay
    network.model[-1].training = True  # raw predictions, as the loss takes them

    def loss(images: torch.Tensor, classes: list[torch.Tensor], boxes: list[torch.Tensor]) -> torch.Tensor:
        height, width = images.shape[2:]
        size = torch.tensor([width, height, width, height])
        per_image = network.to(images.device).loss(
            {
                "img": images,
                "batch_idx": torch.cat([torch.full((len(c),), float(i)) for i, c in enumerate(classes)]),
                "cls": torch.cat(classes).float(),
                "bboxes": box_convert(torch.cat(boxes) / size, "xyxy", "cxcywh"),
            }
        )[0]
        total: torch.Tensor = per_image.sum() / len(images)  # ultralytics multiplies by the size of the batch
        return total

    return loss, list(model.names.values())

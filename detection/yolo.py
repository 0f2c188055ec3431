"""YOLO detectors through ultralytics, which is licensed under AGPL-3.0; so are the weights in the package.

The one file that imports ultralytics: who does not use it owes nothing to its licence.

GLARE goes in front of a ``YOLO`` of yours with one line:

>>> enhance = GLAREEnhance()
>>> put_in_front(yolo, enhance)  # predict and track, at the images' own size  # doctest: +SKIP
>>> yolo.val(data="night.yaml", validator=validator_behind(enhance))  # doctest: +SKIP
>>> yolo.train(data="night.yaml", trainer=trainer_behind(enhance))  # doctest: +SKIP
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

from detection.boxes import COCO_CLASSES, EXDARK_CLASSES, Detections, class_map
from detection.cache import fingerprint
from detection.dataset import Pixels
from detection.detectors import weights_of
from detection.enhancers import one_line
from detection.threads import free_threads, threads
from glare import GLAREEnhance
from glare import weights as glare_weights

# Without these, importing ultralytics looks for a network and may install packages.
os.environ.setdefault("YOLO_OFFLINE", "true")
os.environ.setdefault("YOLO_AUTOINSTALL", "false")
try:
    from ultralytics import __version__ as ultralytics_version
    from ultralytics.models.yolo.detect import DetectionPredictor, DetectionTrainer, DetectionValidator
    from ultralytics.models.yolo.model import YOLO
    from ultralytics.utils import NUM_THREADS
    from ultralytics.utils.downloads import GITHUB_ASSETS_NAMES
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "YOLO detectors need ultralytics (AGPL-3.0): pip install 'glare-torch[detection]'."
    ) from error

WEIGHTS = Path(__file__).parent / "weights"
# Every box that could matter to a precision-recall curve; COCO counts the best 100 of an image.
_MIN_SCORE, _MAX_BOXES, _IMAGE_SIZE = 0.001, 300, 640


class YOLODetector:
    """A YOLO model of ultralytics.

    Args:
        model: the model, its class names set.
        device: where it computes.
        image_size: the pixels of the longer side at which it looks at an image.

    Attributes:
        identity: changes with the weights and the program.
    """

    def __init__(self, model: YOLO, device: str = "cpu", image_size: int = _IMAGE_SIZE) -> None:
        self._model = model
        self._device = device
        self._image_size = image_size
        # Now, since ultralytics folds the normalisation into the convolutions at the first image.
        network: Any = model.model
        weights = weights_of(network) if isinstance(network, nn.Module) else fingerprint(Path(str(network)))
        self.identity = (
            f"{type(network).__name__} {weights}, score {_MIN_SCORE}, boxes {_MAX_BOXES}, size {image_size}, "
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
        # For any other name of a checkpoint ultralytics asks GitHub.
        if path.suffix == ".pt" and not (own or path.exists() or "://" in str(name)):
            raise FileNotFoundError(f"Expected a checkpoint at {name} but there is none.")
        try:
            model = YOLO(str(name), task="detect")
            found = cls(model, device)
            found.names  # noqa: B018 - loads what is no checkpoint, such as an ONNX file
        except FileNotFoundError:
            raise
        except Exception as error:  # whatever a damaged file leads the unpickler to
            raise ValueError(f"Expected a detector at {name} but got stuck: {one_line(error)}") from error
        if model.task != "detect":
            raise ValueError(f"Expected a detector at {name} but got a model for the task {model.task!r}.")
        return found

    @classmethod
    def from_network(cls, network: Any, device: str = "cpu", image_size: int = _IMAGE_SIZE) -> YOLODetector:
        """Take a ``DetectionModel`` that was built or trained here, its class names set."""
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
        with threads(torch.get_num_threads()):
            return [self._detect(image) for image in images]

    def _detect(self, image: Pixels) -> Detections:
        results: Any = self._model.predict(
            np.ascontiguousarray(image[..., ::-1]),  # ultralytics takes arrays as BGR
            conf=_MIN_SCORE,
            max_det=_MAX_BOXES,
            imgsz=self._image_size,
            device=self._device,
            verbose=False,
        )
        found = results[0].boxes
        return Detections(
            found.xyxy.cpu().numpy().astype(np.float64),
            found.conf.cpu().numpy().astype(np.float64),
            found.cls.cpu().numpy().astype(np.int64),
        )


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


def features(name: str | Path = "yolo26n.pt") -> Callable[[torch.Tensor], list[torch.Tensor]]:
    """What a YOLO model sees before it decides: the frozen feature maps that its head reads.

    A loss on them keeps in an image what a detector looks at: ``glare train fusion --features
    detection.yolo:features:yolo26n.pt``.

    Args:
        name: any model ultralytics knows by name or path; a ``.pt`` is a pickle: name only what you trust.

    Returns:
        (B, 3, H, W) in [0,1], H and W multiples of 32, RGB -> maps at 1/8, 1/16 and 1/32 of the size; differentiable,
        and on whatever device the images are.
    """
    network: Any = YOLO(str(name), task="detect").model
    network.eval().requires_grad_(False).fuse(verbose=False)
    head = network.model[-1]
    seen: Any = nn.Identity()
    # In the head's place ultralytics hands over what the head would have read.
    seen.f, seen.i, seen.type, seen.np = head.f, head.i, "Identity", 0
    network.model[-1] = seen

    def look(images: torch.Tensor) -> list[torch.Tensor]:
        maps: list[torch.Tensor] = network.to(images.device)(images)
        return maps

    return look


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


class _InFront:
    """The callback that hands a predictor enhanced images in the place of those it has loaded."""

    def __init__(self, enhance: GLAREEnhance) -> None:
        self.enhance = with_all_cores(enhance)

    def __call__(self, predictor: Any) -> None:
        paths, images, log = predictor.batch
        if isinstance(images, torch.Tensor):  # RGB already, in [0,1]
            enhanced = self.enhance(images)
        else:
            enhanced = [np.ascontiguousarray(self.enhance(image[..., ::-1])[..., ::-1]) for image in images]
        predictor.batch = paths, enhanced, log


def with_all_cores(enhance: GLAREEnhance) -> Callable[[Any], Any]:
    """The enhancer with the threads that torch had before ultralytics took some: see `detection.threads`."""
    number = free_threads(NUM_THREADS)

    def enhanced(image: Any) -> Any:
        with threads(number):
            return enhance(image)

    return enhanced


def put_in_front(yolo: YOLO, enhance: GLAREEnhance) -> None:
    """Let a YOLO see every image of ``predict`` and ``track`` enhanced, at the image's own size.

    ``results.orig_img`` is then the enhanced image; boxes are in its pixels, which are those of the image that
    came. An enhancer that was put in front before is replaced. ``val`` and ``train`` offer no such callback:
    see `validator_behind` and `trainer_behind`.

    Args:
        yolo: a model of any task, also one that has predicted before.
        enhance: what it looks through.
    """
    event = "on_predict_batch_start"
    others = [callback for callback in yolo.callbacks[event] if not isinstance(callback, _InFront)]
    yolo.callbacks[event] = [*others, _InFront(enhance)]


def predictor_behind(enhance: GLAREEnhance) -> type[Any]:
    """Return a predictor that enhances at the detector's input size: ``yolo.predict(..., predictor=...)``.

    Far cheaper than `put_in_front` on large photographs, but the grey bars that ultralytics pads an image with
    are enhanced along with it. ``results.orig_img`` stays the image that came. A ``YOLO`` keeps the predictor
    of its last call, and sets up the model anew for every other class: make the class once.
    """

    enhanced = with_all_cores(enhance)

    class Predictor(DetectionPredictor):
        def preprocess(self, im: Any) -> torch.Tensor:
            seen: torch.Tensor = enhanced(super().preprocess(im))
            return seen

    return Predictor


def validator_behind(enhance: GLAREEnhance) -> type[Any]:
    """Return a validator that enhances at the detector's input size: ``yolo.val(..., validator=...)``."""

    enhanced = with_all_cores(enhance)

    class Validator(DetectionValidator):
        def preprocess(self, batch: dict[str, Any]) -> dict[str, Any]:
            batch = super().preprocess(batch)
            batch["img"] = enhanced(batch["img"])
            return batch

    return Validator


def trainer_behind(enhance: GLAREEnhance, lr_share: float = 0.1) -> type[Any]:
    """Return a trainer that enhances at the detector's input size: ``yolo.train(..., trainer=...)``.

    What the detector is trained and validated on is enhanced after ultralytics' augmentation, in float32
    unless the enhancer was made with another ``dtype``, whatever ultralytics' own mixed precision.

    A frozen enhancer stays as it is. One made with ``trainable=True`` learns from the detector's loss, in a
    parameter group of its own, without weight decay. Its weights are saved as a folder beside each checkpoint,
    ``best_enhancer`` beside ``best.pt`` and ``last_enhancer`` beside ``last.pt``, float32, to be loaded with
    ``GLAREEnhance(folder)``; a resumed training goes on from the latter. After training `enhance` holds the
    best weights, as the ``YOLO`` does. There is no running average of the enhancer, as there is of the
    detector: what is saved are the very weights that were validated.

    Args:
        enhance: what the detector looks through.
        lr_share: the enhancer's learning rate as a share of the detector's.

    Raises:
        ValueError: when a training with a trainable enhancer starts on several devices, among which its
            gradient would not be shared.
    """
    parameters = list(enhance.parameters())  # none where it is frozen

    class Trainer(DetectionTrainer):
        def preprocess_batch(self, batch: dict[str, Any]) -> dict[str, Any]:
            batch = super().preprocess_batch(batch)
            batch["img"] = enhance(batch["img"])
            return batch

        def plot_training_samples(self, batch: dict[str, Any], ni: int) -> None:
            super().plot_training_samples({**batch, "img": batch["img"].detach().clone()}, ni)

        def get_validator(self) -> Any:
            plain: Any = super().get_validator()
            return validator_behind(enhance)(plain.dataloader, plain.save_dir, plain.args, plain.callbacks)

        def build_optimizer(self, *args: Any, **kwargs: Any) -> Any:
            optimizer: Any = super().build_optimizer(*args, **kwargs)
            if parameters:
                if self.world_size > 1:
                    raise ValueError(
                        f"Expected one device to train an enhancer on but got {self.world_size}."
                    )
                if enhance.device is None:
                    enhance.to(self.device)
                plainest = min(optimizer.param_groups, key=lambda group: (group["lr"], group["weight_decay"]))
                own = {"params": parameters, "param_group": "enhancer", "use_muon": False}
                own |= {"lr": lr_share * plainest["lr"], "weight_decay": 0.0}
                optimizer.add_param_group({**plainest, **own})
            return optimizer

        def optimizer_step(self) -> None:
            # Ultralytics cuts the detector's gradient to a norm of 10; both are still multiplied by the scale.
            nn.utils.clip_grad_norm_(parameters, 10.0 * self.scaler.get_scale())
            super().optimizer_step()

        def save_model(self) -> Any:
            saved = super().save_model()
            if parameters:
                checkpoints = [self.last, *([self.best] if self.best_fitness == self.fitness else [])]
                for checkpoint in checkpoints:
                    glare_weights.save(enhance.model, _beside(checkpoint), torch.float32)
            return saved

        def _load_checkpoint_state(self, ckpt: Any) -> None:  # when resumed, and after a loss of NaN
            super()._load_checkpoint_state(ckpt)
            self._load_enhancer(self.last)

        def final_eval(self) -> None:
            self._load_enhancer(self.best)  # `best.pt` was not trained behind the last one
            super().final_eval()

        def _load_enhancer(self, checkpoint: Path) -> None:
            if parameters and _beside(checkpoint).is_dir():
                enhance.model.load_state_dict(glare_weights.load(_beside(checkpoint)).state_dict())

    return Trainer


def _beside(checkpoint: Path) -> Path:
    return checkpoint.with_name(f"{checkpoint.stem}_enhancer")

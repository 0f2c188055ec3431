"""GLARE inside ultralytics, in front of a ``YOLO`` of yours with one line. ultralytics is licensed under AGPL-3.0.

>>> from detection import sample_set
>>> from detection.detectors.ultralytics import WEIGHTS, built_in
>>> yolo, enhance = YOLO(WEIGHTS / "yolo26n-exdark.yaml", task="detect"), GLAREEnhance()
>>> yolo.model = built_in().network  # here the detector in the package; yours is ``YOLO("yolo26n.pt")``
>>> put_in_front(yolo, enhance)  # predict and track see enhanced images, at the images' own size
>>> cat = sample_set().samples[3].load()[..., ::-1] // 8  # a night, in ultralytics' order of colours
>>> (result,) = yolo.predict(cat, verbose=False)
>>> result.orig_img.shape == cat.shape, bool(result.orig_img.mean() > cat.mean())
(True, True)
>>> yolo.val(data="night.yaml", validator=validator_behind(enhance))  # doctest: +SKIP
>>> yolo.train(data="night.yaml", trainer=trainer_behind(enhance))  # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
import torch
from torch import nn

from detection.detectors.ultralytics import YOLO  # first: it keeps ultralytics off the network
from detection.timing import free_threads, threads
from glare import GLAREEnhance
from glare import weights as glare_weights
from glare.steady import Steady

# isort: split
from ultralytics.models.yolo.detect import DetectionPredictor, DetectionTrainer, DetectionValidator
from ultralytics.utils import NUM_THREADS


class _InFront:
    """The callback that hands a predictor enhanced images in the place of those it has loaded."""

    def __init__(self, enhance: GLAREEnhance) -> None:
        self.plain = enhance
        self.enhance = with_all_cores(enhance)
        self.films: dict[str, Callable[..., Any]] = {}  # of each video, or stream, that is running

    def __call__(self, predictor: Any) -> None:
        paths, images, log = predictor.batch
        times = _times(predictor.dataset, len(images))
        if isinstance(images, torch.Tensor):  # RGB already, in [0,1]
            enhanced = self.enhance(images)
        elif times is None:
            enhanced = [np.ascontiguousarray(self.enhance(image[..., ::-1])[..., ::-1]) for image in images]
        else:
            self.films = {path: self._film(path) for path in dict.fromkeys(map(str, paths))}
            enhanced = []
            for path, image, time in zip(paths, images, times, strict=True):
                frame = torch.from_numpy(np.ascontiguousarray(image[..., ::-1])).permute(2, 0, 1)[None]
                result = self.films[str(path)](frame, [time])[0].permute(1, 2, 0).numpy()
                enhanced.append(np.ascontiguousarray(result[..., ::-1]))
        predictor.batch = paths, enhanced, log

    def _film(self, path: str) -> Callable[..., Any]:
        return self.films.get(path) or with_all_cores(Steady(self.plain))


def _times(dataset: Any, count: int) -> list[float] | None:
    """Return when the last ``count`` frames of a video were seen, in seconds; None for images."""
    if dataset.mode == "stream":  # of a camera, or several, now
        return [monotonic()] * count
    if dataset.mode != "video":
        return None
    rate = dataset.fps / dataset.vid_stride if dataset.fps > 0 else 30.0
    return [(dataset.frame - count + 1 + number) / rate for number in range(count)]


def with_all_cores(enhance: Callable[..., Any]) -> Callable[..., Any]:
    """Return the enhancer with the threads that torch had before ultralytics took some: see `detection.timing`."""
    number = free_threads(NUM_THREADS)

    def enhanced(*inputs: Any) -> Any:
        with threads(number):
            return enhance(*inputs)

    return enhanced


def put_in_front(yolo: YOLO, enhance: GLAREEnhance) -> None:
    """Let a YOLO see every image of ``predict`` and ``track`` enhanced, at the image's own size.

    Frames of a video or a camera are steadied, each of its own, see `glare.steady.Steady`.
    ``results.orig_img`` is then the enhanced image; boxes are in its pixels, which are those of the image that
    came. An enhancer that was put in front before is replaced. ``val`` and ``train`` offer no such callback:
    see `validator_behind` and `trainer_behind`.

    Args:
        yolo: a model of any task, also one that has predicted before.
        enhance: the enhancer in front of it.
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

    The images of training and validation are enhanced after ultralytics' augmentation, in float32
    unless the enhancer was made with another ``dtype``, whatever ultralytics' own mixed precision.

    A frozen enhancer stays as it is. One made with ``trainable=True`` learns from the detector's loss, in a
    parameter group of its own, without weight decay. Its weights are saved as a folder beside each checkpoint,
    ``best_enhancer`` beside ``best.pt`` and ``last_enhancer`` beside ``last.pt``, float32, to be loaded with
    ``GLAREEnhance(folder)``; a resumed training goes on from the latter. After training `enhance` holds the
    best weights, as the ``YOLO`` does. There is no running average of the enhancer, as there is of the
    detector: the saved weights are those that were validated.

    Args:
        enhance: the enhancer in front of the detector.
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


def features(name: str | Path = "yolo26n.pt") -> Callable[[torch.Tensor], list[torch.Tensor]]:
    """Return the function from images to the frozen feature maps that a YOLO's head reads.

    A loss on these maps keeps in an image what a detector looks at: ``glare train fusion --features
    detection.hooks:features:yolo26n.pt``.

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
    # ultralytics hands the input of the head to the module in its place.
    seen.f, seen.i, seen.type, seen.np = head.f, head.i, "Identity", 0
    network.model[-1] = seen

    def look(images: torch.Tensor) -> list[torch.Tensor]:
        maps: list[torch.Tensor] = network.to(images.device)(images)
        return maps

    return look

"""How well a detector sees behind each enhancer: COCO mAP, image quality and time, one row each."""

from __future__ import annotations

import contextlib
import io
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from tqdm import tqdm

from detection.boxes import Detections, class_map
from detection.dataset import Dataset, Pixels, Sample
from detection.detectors import Detector
from detection.enhancers import Enhancer, check_enhanced

OnImage = Callable[[Sample, Mapping[str, tuple[Pixels, Detections]]], None]
"""Called with each sample and, per enhancer, what the detector saw and what it found there."""


def psnr(image: Pixels, reference: Pixels) -> float:
    """Return the peak signal-to-noise ratio in dB over all channels of two uint8 images."""
    return float(peak_signal_noise_ratio(reference, image, data_range=255))  # type: ignore[no-untyped-call]


def ssim(image: Pixels, reference: Pixels) -> float:
    """Return the structural similarity of two uint8 RGB images, the mean over the channels.

    Gaussian window of 11×11 and σ = 1.5, population covariance: Wang et al., "Image Quality Assessment: From
    Error Visibility to Structural Similarity", IEEE TIP 2004. The images must measure 11 pixels or more.
    """
    return float(
        structural_similarity(  # type: ignore[no-untyped-call]
            reference,
            image,
            data_range=255,
            channel_axis=-1,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
        )
    )


def mean_average_precision(
    truth: Sequence[Sample], found: Sequence[Detections], classes: int
) -> tuple[float, float]:
    """Return COCO's mAP at IoU 0.50 and over IoU 0.50 to 0.95, both in [0,1], by pycocotools.

    The mean is over the classes that occur in `truth`.

    Args:
        truth: the labelled images.
        found: what was found in each of them, labels numbering the same classes.
        classes: how many classes there are.

    Returns:
        (mAP50, mAP50-95); (nan, nan) where there is nothing to find.

    Raises:
        ValueError: if the two are not of the same length.
    """
    if len(truth) != len(found):
        raise ValueError(f"Expected {len(truth)} detections, one per image, but got {len(found)}.")
    # All ids start at 1: pycocotools never matches an annotation whose id is 0, and says nothing.
    marks = [
        {
            "image_id": number,
            "category_id": int(label) + 1,
            "bbox": [float(x1), float(y1), float(x2 - x1), float(y2 - y1)],
            "area": float((x2 - x1) * (y2 - y1)),
            "iscrowd": int(crowd),
        }
        for number, sample in enumerate(truth, 1)
        for (x1, y1, x2, y2), label, crowd in zip(sample.boxes, sample.labels, sample.crowd, strict=True)
    ]
    results = [
        {
            "image_id": number,
            "category_id": int(label) + 1,
            "bbox": [float(x1), float(y1), float(x2 - x1), float(y2 - y1)],
            "score": float(score),
        }
        for number, one in enumerate(found, 1)
        for (x1, y1, x2, y2), label, score in zip(one.boxes, one.labels, one.scores, strict=True)
    ]
    if all(mark["iscrowd"] for mark in marks):
        return float("nan"), float("nan")
    if not results:  # loadRes([]) raises
        return 0.0, 0.0
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = {
            "images": [{"id": number} for number in range(1, len(truth) + 1)],
            "annotations": [{"id": number, **mark} for number, mark in enumerate(marks, 1)],
            "categories": [{"id": number} for number in range(1, classes + 1)],
        }
        coco.createIndex()
        scored = COCOeval(coco, coco.loadRes(results), iouType="bbox")
        scored.evaluate()
        scored.accumulate()
        scored.summarize()
    return float(scored.stats[1]), float(scored.stats[0])


@dataclass
class _Row:
    """What is gathered for one light and one enhancer."""

    samples: list[Sample] = field(default_factory=list)
    found: list[Detections] = field(default_factory=list)
    psnr: list[float] = field(default_factory=list)
    ssim: list[float] = field(default_factory=list)
    enhancer_ms: list[float] = field(default_factory=list)
    detector_ms: list[float] = field(default_factory=list)


def evaluate(
    dataset: Dataset,
    detector: Detector,
    enhancers: Mapping[str, Enhancer],
    *,
    progress: bool = False,
    on_image: OnImage | None = None,
) -> pd.DataFrame:
    """Run the detector on every image behind every enhancer, and score it.

    Each image is loaded once for all enhancers, so their rows share its pixels and its noise.

    Args:
        dataset: labelled images; for PSNR and SSIM with a clean reference, see `darken`.
        detector: its classes are matched by name to those of the set; what the set does not know is left out.
        enhancers: functions from (H, W, 3) uint8 RGB to the same, by the name of their row.
        progress: show a progress bar.
        on_image: called with each image, what every enhancer made of it and what was found there.

    Returns:
        One row per light and enhancer, in the order they come: ``light``, ``enhancer``, ``mAP50`` and
        ``mAP50-95`` in [0,1], ``PSNR`` in dB and ``SSIM`` (NaN without a reference), ``ms`` (the enhancer
        alone, mean per image), ``detector_ms``, ``images`` and ``boxes``. ``attrs["faults"]`` lists what
        could not be read; those images count nowhere.

    Raises:
        ValueError: if no image can be read, or an enhancer returns another shape or kind of image.
    """
    mapping = class_map(detector.names, dataset.classes)
    if (mapping < 0).all():
        raise ValueError(
            f"Expected the detector to know a class of the set ({', '.join(dataset.classes)}) but it knows "
            f"{', '.join(detector.names)}."
        )
    rows: dict[tuple[str, str], _Row] = {}
    faults = list(dataset.faults)
    for sample in tqdm(dataset.samples, desc="evaluate", unit="image", disable=not progress):
        try:
            image = sample.load()
            reference = sample.reference() if sample.reference else None
        except (OSError, ValueError) as error:
            faults.append(f"{sample.name}: {error}")
            continue
        if not rows:  # weights load and kernels are chosen at the first call, which is no part of the timing
            for enhance in enhancers.values():
                enhance(image[:64, :64].copy())
            detector([image])
        seen: dict[str, tuple[Pixels, Detections]] = {}
        for name, enhance in enhancers.items():
            row = rows.setdefault((sample.light, name), _Row())
            copy = image.copy()  # an enhancer that writes into its input must not reach the next one
            start = time.perf_counter()
            enhanced = enhance(copy)
            middle = time.perf_counter()
            check_enhanced(name, image, enhanced)
            found = detector([enhanced])[0].relabel(mapping)
            row.detector_ms.append(1000 * (time.perf_counter() - middle))
            row.enhancer_ms.append(1000 * (middle - start))
            row.samples.append(sample)
            row.found.append(found)
            if reference is not None:
                row.psnr.append(psnr(enhanced, reference))
                row.ssim.append(ssim(enhanced, reference))
            seen[name] = (enhanced, found)
        if on_image:
            on_image(sample, seen)
    if not rows:
        raise ValueError(
            "Expected at least one readable image and one enhancer but got none. " + "; ".join(faults)
        )
    # In the order of `rows`: with the first image of a light come the rows of all enhancers.
    classes = len(dataset.classes)
    table = pd.DataFrame([_score(light, name, row, classes) for (light, name), row in rows.items()])
    table.attrs["faults"] = list(dict.fromkeys(faults))  # a photograph is read once per light
    return table


def _score(light: str, name: str, row: _Row, classes: int) -> dict[str, object]:
    map50, map50_95 = mean_average_precision(row.samples, row.found, classes)
    return {
        "light": light,
        "enhancer": name,
        "mAP50": map50,
        "mAP50-95": map50_95,
        "PSNR": _mean(row.psnr),
        "SSIM": _mean(row.ssim),
        "ms": _mean(row.enhancer_ms),
        "detector_ms": _mean(row.detector_ms),
        "images": len(row.samples),
        "boxes": sum(len(sample.boxes) for sample in row.samples),
    }


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else float("nan")

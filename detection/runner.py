"""One loop over a set: load, enhance, detect where there are detectors, measure, record.

`evaluate` returns the table; `collect` returns the `Results` it is made of, image by image. Restoration is the case
without detectors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from torch import distributed
from tqdm import tqdm

from detection.cache import Cache, fingerprint
from detection.data.classes import class_map
from detection.data.core import Dataset, Detections, Pixels, Sample, capped, gathered
from detection.data.paired import worse_stored
from detection.detectors.base import Detector
from detection.enhancers import Enhancer, Folder, enhanced_by, raw, try_out
from detection.faults import FaultError, blame
from detection.metrics.image_quality import Metric, by_name, where_defined
from detection.results import Record, Results
from detection.stream import Stream
from detection.timing import Cost, timed

OnImage = Callable[[Sample, Mapping[str, tuple[Pixels, Detections]]], None]
"""Function of each sample and, per enhancer, its image and the detections of the first detector, if there is one."""

_NOTHING = Detections(np.zeros((0, 4)), np.zeros(0), np.zeros(0, dtype=np.int64))
_UNKNOWN = Cost(float("nan"), float("nan"))
_BRIGHTER = "brighter than its reference: the sides of the pairs may be swapped"


def evaluate(
    dataset: Dataset,
    enhancers: Mapping[str, Enhancer | Folder],
    detectors: Detector | Mapping[str, Detector] | None = None,
    metrics: Iterable[str | Metric] = ("PSNR", "SSIM"),
    *,
    cache: Cache | None = None,
    progress: bool = False,
    on_image: OnImage | None = None,
    resamples: int = 1000,
) -> pd.DataFrame:
    """Measure every image behind every enhancer, and the detections in it: `collect`, then `Results.table`.

    Each image is loaded once for all enhancers, so their rows share its pixels and its noise. An image at which
    loading, an enhancer, a detector or a metric fails is listed as a fault and counts in no row; with detectors a
    metric without reference may leave an image out. An enhancer that fails on all that it is tried on at the start is
    listed and left out.

    Where `torch.distributed` is running, as under ``accelerate launch``, every process works on a share of the
    photographs and all of them return the same table.

    Args:
        dataset: images, for detectors labelled; see `read_dataset`, `read_test_sets` and, for clean references,
            `darken`.
        enhancers: functions from (H, W, 3) uint8 RGB to the same, or folders, by the name of their row. What
            stands under ``raw`` is what the others are compared with.
        detectors: a detector, or several by the name of their rows. Their classes are matched by name to those of
            the set; what the set does not know is left out.
        metrics: of image quality, see `detection.metrics.image_quality`: ``PSNR`` and ``SSIM`` where there is a
            reference, ``NIQE`` (its column is ``NIQE (own model)``) where there is none, ``lpips(network)``,
            ``gt_mean(METRICS["PSNR"])``, or your own.
        cache: place to keep, and look for, the results of enhancers and detectors that have an ``identity``.
        progress: show a progress bar.
        on_image: called with each image, its enhanced versions and the first detector's detections in them.
        resamples: how many times the photographs are drawn anew for the intervals.

    Returns:
        See `Results.table`.

    Raises:
        ValueError: if a detector knows no class of the set, no image has a box to find, there is no metric of a name,
            a folder is to stand for several draws of the noise, or no image is without a fault.

    >>> from detection import darken, enhancer, sample_set
    >>> night = darken(sample_set(), "dark")
    >>> cat = night.replace(samples=night.samples[3:4])
    >>> table = evaluate(cat, {"raw": enhancer("raw"), "gamma": enhancer("gamma")})
    >>> table[["set", "enhancer", "PSNR", "SSIM"]].round(2)
        set enhancer   PSNR  SSIM
    0  dark      raw   7.96  0.15
    1  dark    gamma  13.74  0.27
    """
    results = collect(
        dataset, enhancers, detectors, metrics, cache=cache, progress=progress, on_image=on_image
    )
    return results.table(resamples=resamples)


def collect(
    dataset: Dataset,
    enhancers: Mapping[str, Enhancer | Folder],
    detectors: Detector | Mapping[str, Detector] | None = None,
    metrics: Iterable[str | Metric] = ("PSNR", "SSIM"),
    *,
    cache: Cache | None = None,
    progress: bool = False,
    on_image: OnImage | None = None,
) -> Results:
    """Do what `evaluate` does, and return the records; for the arguments and errors see there."""
    if detectors is None:
        detectors = {}
    elif not isinstance(detectors, Mapping):
        detectors = {"": detectors}
    several = any(sample.draw for sample in dataset.samples)
    for name, enhance in enhancers.items():
        if several and isinstance(enhance, Folder):
            raise ValueError(
                f"Expected --draws 1 with {name}, or argument `draws` of `darken` to be 1: a folder holds one image of "
                "each photograph and light."
            )
    rank, processes = _process()
    enhancers, failing = try_out(enhancers, dataset)
    for fault in failing if progress and rank == 0 else ():
        print(f"Fault: {fault}", flush=True)
    chosen = by_name(metrics)
    if detectors:  # an image without grain, for example, still counts for the detectors
        chosen = tuple(one if one.needs_reference else where_defined(one) for one in chosen)
    run = _Run(dataset, enhancers, detectors, chosen, cache, _share(dataset, rank, processes))
    if detectors and dataset.samples and not any((~sample.crowd).any() for sample in dataset.samples):
        raise ValueError(
            f"Expected boxes to find but none of the {len(dataset)} images has one of "
            f"{', '.join(dataset.classes)}. " + "; ".join(capped(dataset.faults))
        )
    records: list[Record] = []
    faults: list[tuple[int, str]] = []
    quiet = not progress or rank > 0
    bar = tqdm(run.stream, desc="evaluate", unit="image", total=len(run.share), disable=quiet)
    for number in bar:
        try:
            made, seen = run.look(number)
        except FaultError as fault:
            faults.append((number, str(fault)))
            bar.set_postfix(faults=len(faults))
            continue
        records += made
        if on_image:
            on_image(dataset.samples[number], seen)
    if processes > 1:
        parts: list[tuple[list[Record], list[tuple[int, str]], list[tuple[int, str]]]]
        parts = [([], [], [])] * processes
        distributed.all_gather_object(parts, (records, faults, run.brighter))
        records = sorted((record for part in parts for record in part[0]), key=lambda record: record.sample)
        faults = sorted(fault for _, part, _ in parts for fault in part)
        run.brighter = sorted(line for _, _, part in parts for line in part)
    # A photograph that cannot be read gives the same line at every light.
    told = tuple(
        dict.fromkeys(
            [
                *dataset.faults,
                *failing,
                *(text for _, text in faults),
                *gathered((title, _BRIGHTER) for _, title in run.brighter),
            ]
        )
    )
    if not records:
        raise ValueError(
            "Expected at least one readable image and one enhancer but got none. " + "; ".join(told)
        )
    return Results(dataset, dict(enhancers), tuple(detectors), run.metrics, tuple(records), told)


class _Enhanced(NamedTuple):
    """Result of one enhancer, and detections by detector; without detectors no detections under an empty name."""

    image: Pixels
    cost: Cost
    file: Path | None
    found: dict[str, tuple[Detections, Cost]]


@dataclass
class _Run:
    """The work on one image after the other."""

    dataset: Dataset
    enhancers: Mapping[str, Enhancer | Folder]
    detectors: Mapping[str, Detector]
    metrics: tuple[Metric, ...]
    cache: Cache | None
    share: list[int]

    def __post_init__(self) -> None:
        self.stream = Stream(self.dataset, self.share)
        self.warm: set[int] = set()
        #: Numbers and names of the images that are brighter than their references.
        self.brighter: list[tuple[int, str]] = []
        self.mappings = {}
        for name, detector in self.detectors.items():
            self.mappings[name] = class_map(detector.names, self.dataset.classes)
            if (self.mappings[name] < 0).all():
                raise ValueError(
                    f"Expected the detector to know a class of the set ({', '.join(self.dataset.classes)}) but "
                    f"it knows {', '.join(detector.names)}."
                )

    def look(self, number: int) -> tuple[list[Record], dict[str, tuple[Pixels, Detections]]]:
        """Return all records of one image, and the arguments of `OnImage`."""
        sample = self.dataset.samples[number]
        title = f"{sample.name} ({sample.light})"
        # Photographs of a labelled set have the same fault at every light; images of test sets may share a name.
        with blame(sample.name if self.detectors else title):
            image, reference = self.stream.load()
            if reference is not None and not self.detectors:
                if np.array_equal(image, reference):  # which would make the mean PSNR infinite
                    raise ValueError("it has the pixels of its reference")
                if image.mean() > reference.mean():
                    self.brighter.append((number, title))
        with blame(title), self.stream.timing():
            made = {name: self.enhance_and_detect(name, image, sample) for name in self.enhancers}
            self.stream.release()
            quality = {name: self.quality(one.image, reference) for name, one in made.items()}
            held = [image] if reference is None or self.detectors else [image, reference]
            pixels = fingerprint(*(part for i in held for part in (str(i.shape), i.tobytes())))
        records = [
            Record(number, name, detector, found, one.cost, cost, quality[name], pixels, one.file)
            for name, one in made.items()
            for detector, (found, cost) in one.found.items()
        ]
        return records, {name: (one.image, next(iter(one.found.values()))[0]) for name, one in made.items()}

    def enhance_and_detect(self, name: str, image: Pixels, sample: Sample) -> _Enhanced:
        with blame(f"enhancer `{name}`"):
            enhanced, cost, file = self.enhance(name, image, sample)
        found = {}
        for title, detector in self.detectors.items():
            with blame(f"detector `{title}`" if title else "detector"):
                detections, detecting = self.detect(detector, enhanced)
                found[title] = detections.relabel(self.mappings[title]), detecting
        return _Enhanced(enhanced, cost, file, found or {"": (_NOTHING, _UNKNOWN)})

    def enhance(self, name: str, image: Pixels, sample: Sample) -> tuple[Pixels, Cost, Path | None]:
        """Return the result of an enhancer, now or from before, its cost, and its file if there is one."""
        enhance = self.enhancers[name]
        if isinstance(enhance, Folder):
            file = enhance.find(sample.name, sample.light)
            compared = sample.reference_path if not self.detectors else None
            if compared and (problem := worse_stored(file, compared)):
                raise ValueError(problem)
            return enhanced_by(name, enhance, image, sample), _UNKNOWN, file
        if enhance is raw:
            return image.copy(), Cost(0.0, float("nan")), None

        def make() -> tuple[Pixels, Cost]:
            copy = image.copy()  # an enhancer that writes into its input must not reach the next one
            return timed(lambda: enhanced_by(name, enhance, copy, sample))

        identity: str | None = getattr(enhance, "identity", None)
        if self.cache is None or identity is None:
            return *make(), None
        return self.cache.enhanced(image, identity, make, self.stream.unwritten)

    def detect(self, detector: Detector, image: Pixels) -> tuple[Detections, Cost]:
        """Return the detections of a detector, now or from before, and their cost."""

        def make() -> tuple[Detections, Cost]:
            if id(detector) not in self.warm:
                # Kernels are chosen at the first call, which is no part of the timing.
                self.warm.add(id(detector))
                with suppress(Exception):
                    detector([image.copy()])
            copy = image.copy()  # a detector may draw into its input
            (found,), cost = timed(lambda: detector([copy]))
            return found, cost

        identity: str | None = getattr(detector, "identity", None)
        if self.cache is None or identity is None:
            return make()
        return self.cache.detections(image, identity, make)

    def quality(self, enhanced: Pixels, reference: Pixels | None) -> dict[str, float]:
        """Return the figures by the metrics that need a reference where there is one, and elsewhere by the others."""
        figures = {}
        for metric in self.metrics:
            if metric.needs_reference == (reference is not None):
                with blame(metric.name):
                    figures[metric.name] = metric(enhanced, reference)
        return figures


def _process() -> tuple[int, int]:
    """Return the number of this process, and how many there are."""
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return 0, 1


def _share(dataset: Dataset, rank: int, processes: int) -> list[int]:
    """Return the samples of one process: all lights of every so-many-th photograph."""
    photographs = {name: i for i, name in enumerate(dict.fromkeys(s.name for s in dataset.samples))}
    return [i for i, s in enumerate(dataset.samples) if photographs[s.name] % processes == rank]

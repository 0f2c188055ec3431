"""How well a detector sees behind each enhancer: average precision, image quality, time and memory, one row each.

`evaluate` returns the table; `collect` returns the `Results` it is made of, image by image.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from torch import distributed, nn
from tqdm import tqdm

from detection.cache import Cache, fingerprint
from detection.data.classes import class_map
from detection.data.core import Dataset, Detections, Pixels, Sample
from detection.detectors.base import Detector
from detection.enhancers import Enhancer, Folder
from detection.faults import FaultError, blame
from detection.metrics.average_precision import RECALLS, Matches
from detection.metrics.bootstrap import Difference, paired_bootstrap
from detection.metrics.image_quality import lpips, psnr, ssim
from detection.stream import Call, Enhancing, ahead, working
from detection.timing import Cost, timed

OnImage = Callable[[Sample, Mapping[str, tuple[Pixels, Detections]]], None]
"""Called with each sample and, per enhancer, what the (first) detector saw and what it found there."""

BASELINE = "raw"
"""The enhancer that the others are compared with."""


def evaluate(
    dataset: Dataset,
    detector: Detector | Mapping[str, Detector],
    enhancers: Mapping[str, Enhancer | Folder],
    *,
    cache: Cache | None = None,
    lpips: nn.Module | None = None,
    progress: bool = False,
    on_image: OnImage | None = None,
    resamples: int = 1000,
) -> pd.DataFrame:
    """Run the detector on every image behind every enhancer, and score it: `collect`, then `Results.table`.

    Each image is loaded once for all enhancers, so their rows share its pixels and its noise. An image at which
    loading, an enhancer, a detector or a measure fails is listed as a fault and counts in no row. An enhancer that
    fails on all that it is tried on at the start is listed and left out.

    Where `torch.distributed` is running, as under ``accelerate launch``, every process works on a share of the
    photographs and all of them return the same table.

    Args:
        dataset: labelled images; for PSNR and SSIM with a clean reference, see `darken`.
        detector: a detector, or several by the name of their rows. Their classes are matched by name to those of
            the set; what the set does not know is left out.
        enhancers: functions from (H, W, 3) uint8 RGB to the same, or folders, by the name of their row. What
            stands under ``raw`` is what the others are compared with.
        cache: where to keep, and look for, what enhancers and detectors made, if they have an ``identity``.
        lpips: `glare.metrics.LPIPS`, for a column of that name.
        progress: show a progress bar.
        on_image: called with each image, what every enhancer made of it and what the first detector found there.
        resamples: how many times the photographs are drawn anew for the intervals.

    Returns:
        See `Results.table`.

    Raises:
        ValueError: if a detector knows no class of the set, or there is no image without a fault.
    """
    results = collect(
        dataset, detector, enhancers, cache=cache, lpips=lpips, progress=progress, on_image=on_image
    )
    return results.table(resamples=resamples)


@dataclass(frozen=True)
class Record:
    """One image behind one enhancer, in front of one detector.

    Attributes:
        sample: its number in the set's `samples`.
        enhancer: name.
        detector: name; empty where there is but one, without a name.
        found: what was found, labels numbering the set's classes.
        enhanced: what enhancing took when it was done; NaN for images that were enhanced already.
        detected: what detecting took.
        psnr: in dB against the clean reference, NaN where there is none.
        ssim: likewise.
        lpips: likewise, and NaN where it was not asked for.
        pixels: the SHA-256 of the image before it was enhanced.
        file: the enhanced image, where it was kept or was a file already; ``raw`` is never kept, load the sample.
    """

    sample: int
    enhancer: str
    detector: str
    found: Detections
    enhanced: Cost
    detected: Cost
    psnr: float
    ssim: float
    lpips: float
    pixels: str
    file: Path | None


@dataclass(frozen=True)
class Results:
    """All that a table is made of.

    Attributes:
        dataset: the set.
        detectors: their names.
        enhancers: the names of those that work.
        records: one for each image without a fault, enhancer and detector, in this order.
        faults: the set's own and those of this run, one line each.
    """

    dataset: Dataset
    detectors: tuple[str, ...]
    enhancers: tuple[str, ...]
    records: tuple[Record, ...]
    faults: tuple[str, ...]

    @cached_property
    def samples(self) -> tuple[int, ...]:
        """The numbers of the samples that count."""
        return tuple(dict.fromkeys(record.sample for record in self.records))

    @cached_property
    def matches(self) -> dict[tuple[str, str], Matches]:
        """The detections matched to the truth, by detector and enhancer, images in the order of `samples`.

        ``matches[detector, enhancer].coco[0][c].curves(once, slice(0, 1))[0]``, with ``once`` a column of ones,
        holds the precision-recall curve of class c at an overlap of 0.50.
        """
        truth = [self.dataset.samples[number] for number in self.samples]
        return {
            (detector, enhancer): Matches.of(
                truth, [record.found for record in self._of(detector, enhancer)], len(self.dataset.classes)
            )
            for detector in self.detectors
            for enhancer in self.enhancers
        }

    def table(self, *, resamples: int = 1000, seed: int = 0) -> pd.DataFrame:
        """One row per detector, group of images and enhancer.

        The groups are the lights in the order they come, the places, and all together where there are several
        lights.

        Args:
            resamples: how many times the photographs are drawn anew for the intervals.
            seed: of those draws.

        Returns:
            ``detector`` (where they have names), ``light``, ``place`` (where there are several), ``enhancer``;
            ``mAP50`` and ``mAP50-95`` in [0,1]; ``PSNR`` in dB, ``SSIM`` and ``LPIPS`` (where asked for), NaN
            without a reference; ``ms`` and ``detector_ms``, the mean time per image of enhancer and detector, and
            ``MB`` and ``detector_MB``, the highest memory meanwhile; ``images`` and ``boxes``;
            ``dmAP50``, ``dmAP50_low``, ``dmAP50_high``, the difference from ``raw`` with its 95 % interval, and
            ``verdict``: ``better``, ``worse`` or, if 0 is in the interval, ``within noise``, and without an interval
            ``too few images``, see `detection.metrics.bootstrap.ENOUGH_PHOTOGRAPHS`; ``dmAP50-95`` and its interval;
            then the rest of `Matches.scores`.
            ``attrs["faults"]`` lists what was left out, ``attrs["used"]`` and ``attrs["of"]`` count images, those that
            the reader of the set left out among them.
        """
        rows = [
            row
            for detector in self.detectors
            for group in self._groups()
            for row in self._rows(detector, *group, resamples, seed)
        ]
        table = pd.DataFrame(rows)
        empty = [
            name
            for name, kept in (
                ("detector", self.detectors != ("",)),
                ("place", bool(self._places())),
                ("LPIPS", not all(np.isnan(record.lpips) for record in self.records)),
            )
            if not kept
        ]
        table = table.drop(columns=empty)
        table.attrs = {
            "faults": list(self.faults),
            "used": len(self.samples),
            "of": len(self.dataset) + self.dataset.left_out,
        }
        return table

    def images(self) -> pd.DataFrame:
        """One row per detector, image and enhancer, for a closer look at the best and the worst.

        Returns:
            ``detector``, ``sample`` (its number in the set), ``name``, ``light``, ``place``, ``category``,
            ``enhancer``; ``AP50``, COCO's mAP50 of this image alone, NaN where there is nothing to find; ``PSNR``,
            ``SSIM``, ``LPIPS``, ``ms``, ``detector_ms``; ``file``, the enhanced image, or None (see `Record`).
            The detections are in `records`, whose order the rows have.
        """
        alone = {key: dict(zip(self.samples, m.each(), strict=True)) for key, m in self.matches.items()}
        return pd.DataFrame(
            {
                "detector": record.detector,
                "sample": record.sample,
                "name": sample.name,
                "light": sample.light,
                "place": sample.place,
                "category": sample.category,
                "enhancer": record.enhancer,
                "AP50": alone[record.detector, record.enhancer][record.sample],
                "PSNR": record.psnr,
                "SSIM": record.ssim,
                "LPIPS": record.lpips,
                "ms": record.enhanced.ms,
                "detector_ms": record.detected.ms,
                "file": record.file,
            }
            for record in self.records
            for sample in [self.dataset.samples[record.sample]]
        )

    def precision_recall(self) -> pd.DataFrame:
        """The precision-recall curves at an overlap of 0.50 over all images that count.

        Returns:
            ``detector``, ``enhancer``, ``recall`` and ``precision``: 101 rows for each curve, the mean over the
            classes that occur, whose own mean is mAP50.
        """
        return pd.concat(
            [
                pd.DataFrame(
                    {
                        "detector": detector,
                        "enhancer": enhancer,
                        "recall": RECALLS,
                        "precision": matches.precision_recall(),
                    }
                )
                for (detector, enhancer), matches in self.matches.items()
            ],
            ignore_index=True,
        )

    @cached_property
    def fingerprint(self) -> str:
        """The SHA-256 of the images that count, as the enhancers were given them, and of their labels."""
        pixels = {record.sample: record.pixels for record in self.records}
        parts: list[str | bytes] = [" ".join(self.dataset.classes)]
        for number in self.samples:
            sample = self.dataset.samples[number]
            parts += [f"{sample.name} {sample.light} {sample.place} {pixels[number]}"]
            parts += [sample.boxes.tobytes(), sample.labels.tobytes(), sample.crowd.tobytes()]
        return fingerprint(*parts)

    def _of(self, detector: str, enhancer: str) -> list[Record]:
        return [r for r in self.records if r.detector == detector and r.enhancer == enhancer]

    def _places(self) -> list[str]:
        """The places to tell apart, if there are several."""
        places = {self.dataset.samples[number].place for number in self.samples}
        return sorted(places - {""}) if len(places) > 1 else []

    def _groups(self) -> list[tuple[str, str, NDArray[np.int64]]]:
        """Light, place, and the positions in `samples`."""
        used = [self.dataset.samples[number] for number in self.samples]
        lights = list(dict.fromkeys(sample.light for sample in used))
        groups = [(light, "all", [sample.light == light for sample in used]) for light in lights]
        any_light = "all" if len(lights) > 1 else lights[0]
        groups += [(any_light, place, [s.place == place for s in used]) for place in self._places()]
        if len(lights) > 1:
            groups.append(("all", "all", [True] * len(used)))
        return [(light, place, np.flatnonzero(chosen)) for light, place, chosen in groups if any(chosen)]

    def _rows(
        self, detector: str, light: str, place: str, chosen: NDArray[np.int64], resamples: int, seed: int
    ) -> Iterator[dict[str, object]]:
        samples = [self.dataset.samples[self.samples[i]] for i in chosen]
        matches = {name: self.matches[detector, name].among(chosen) for name in self.enhancers}
        differences = (
            paired_bootstrap(
                matches, BASELINE, [sample.name for sample in samples], resamples=resamples, seed=seed
            )
            if BASELINE in matches
            else {}
        )
        for name in self.enhancers:
            records = self._of(detector, name)
            records = [records[i] for i in chosen]
            scores = matches[name].scores(self.dataset.classes)
            yield {
                "detector": detector,
                "light": light,
                "place": place,
                "enhancer": name,
                "mAP50": scores.pop("mAP50"),
                "mAP50-95": scores.pop("mAP50-95"),
                "PSNR": _mean(record.psnr for record in records),
                "SSIM": _mean(record.ssim for record in records),
                "LPIPS": _mean(record.lpips for record in records),
                "ms": _mean(record.enhanced.ms for record in records),
                "detector_ms": _mean(record.detected.ms for record in records),
                "MB": max(record.enhanced.mb for record in records),
                "detector_MB": max(record.detected.mb for record in records),
                "images": len(records),
                "boxes": sum(len(sample.boxes) for sample in samples),
                **_compared(*differences.get(name, ())),
                **scores,
            }


def collect(
    dataset: Dataset,
    detector: Detector | Mapping[str, Detector],
    enhancers: Mapping[str, Enhancer | Folder],
    *,
    cache: Cache | None = None,
    lpips: nn.Module | None = None,
    progress: bool = False,
    on_image: OnImage | None = None,
) -> Results:
    """Run every detector on every image behind every enhancer; for the arguments see `evaluate`.

    Raises:
        ValueError: if a detector knows no class of the set, or there is no image without a fault.
    """
    detectors = detector if isinstance(detector, Mapping) else {"": detector}
    rank, processes = _process()
    enhancers, failing = working(enhancers, dataset, progress and rank == 0)
    run = _Run(dataset, detectors, enhancers, cache, lpips)
    records: list[Record] = []
    faults: list[tuple[int, str]] = []
    share = _share(dataset, rank, processes)
    bar = tqdm(share, desc="evaluate", unit="image", disable=not progress or rank > 0)
    for number, (loading, go_on) in zip(bar, ahead(dataset, share), strict=True):
        sample = dataset.samples[number]
        try:
            with blame(sample.name):
                image, reference = loading()
            with blame(f"{sample.name} ({sample.light})"):
                made, seen = run.look(number, image, reference, go_on)
        except FaultError as fault:
            faults.append((number, str(fault)))
            bar.set_postfix(faults=len(faults))
            continue
        records += made
        if on_image:
            on_image(sample, seen)
    if processes > 1:
        parts: list[tuple[list[Record], list[tuple[int, str]]]] = [([], [])] * processes
        distributed.all_gather_object(parts, (records, faults))
        records = sorted((record for part, _ in parts for record in part), key=lambda record: record.sample)
        faults = sorted(fault for _, part in parts for fault in part)
    # A photograph is read once per light.
    told = tuple(dict.fromkeys([*dataset.faults, *failing, *(text for _, text in faults)]))
    if not records:
        raise ValueError(
            "Expected at least one readable image and one enhancer but got none. " + "; ".join(told)
        )
    return Results(dataset, tuple(detectors), tuple(enhancers), tuple(records), told)


@dataclass
class _Run:
    """The work on one image after the other."""

    dataset: Dataset
    detectors: Mapping[str, Detector]
    enhancers: Mapping[str, Enhancer | Folder]
    cache: Cache | None
    lpips: nn.Module | None

    def __post_init__(self) -> None:
        self.enhance = Enhancing(self.cache)
        self.mappings = {}
        for name, detector in self.detectors.items():
            self.mappings[name] = class_map(detector.names, self.dataset.classes)
            if (self.mappings[name] < 0).all():
                raise ValueError(
                    f"Expected the detector to know a class of the set ({', '.join(self.dataset.classes)}) but "
                    f"it knows {', '.join(detector.names)}."
                )

    def look(
        self, number: int, image: Pixels, reference: Pixels | None, go_on: Callable[[Call], Call]
    ) -> tuple[list[Record], dict[str, tuple[Pixels, Detections]]]:
        """All records of one image, and what `OnImage` is told; for `go_on` see `detection.stream.ahead`."""
        made: list[tuple[str, str, Detections, Cost, Cost, Path | None]] = []
        seen: dict[str, tuple[Pixels, Detections]] = {}
        with self.enhance.keeping(go_on) as timed:
            for name, enhance in self.enhancers.items():
                with blame(f"enhancer `{name}`"):
                    enhanced, enhancing, file = self.enhance(
                        name, enhance, image, self.dataset.samples[number]
                    )
                for title, detector in self.detectors.items():
                    with blame(f"detector `{title}`" if title else "detector"):
                        found, detecting = self.detect(detector, enhanced)
                        found = found.relabel(self.mappings[title])
                    made.append((name, title, found, enhancing, detecting, file))
                    seen.setdefault(name, (enhanced, found))
            timed()
            pixels = fingerprint(str(image.shape), image.tobytes())
            quality = {name: self.quality(enhanced, reference) for name, (enhanced, _) in seen.items()}
        records = [
            Record(number, name, title, found, enhancing, detecting, *quality[name], pixels, file)
            for name, title, found, enhancing, detecting, file in made
        ]
        return records, seen

    def detect(self, detector: Detector, image: Pixels) -> tuple[Detections, Cost]:
        def make() -> tuple[Detections, Cost]:
            # A detector that draws into its input must not reach what is kept and measured.
            self.enhance.warm_up(detector, lambda: detector([image.copy()]))
            copy = image.copy()
            (found,), cost = timed(lambda: detector([copy]))
            return found, cost

        identity: str | None = getattr(detector, "identity", None)
        if self.cache is None or identity is None:
            return make()
        return self.cache.detections(image, identity, make)

    def quality(self, enhanced: Pixels, reference: Pixels | None) -> tuple[float, float, float]:
        """PSNR, SSIM and LPIPS."""
        if reference is None:
            return (float("nan"),) * 3
        perceived = float("nan")
        if self.lpips is not None:
            with blame("LPIPS"):
                perceived = lpips(enhanced, reference, self.lpips)
        with blame("PSNR and SSIM"):
            return psnr(enhanced, reference), ssim(enhanced, reference), perceived


def _process() -> tuple[int, int]:
    """The number of this process, and how many there are."""
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return 0, 1


def _share(dataset: Dataset, rank: int, processes: int) -> list[int]:
    """The samples of one process: all lights of every so-many-th photograph."""
    photographs = {name: i for i, name in enumerate(dict.fromkeys(s.name for s in dataset.samples))}
    return [i for i, s in enumerate(dataset.samples) if photographs[s.name] % processes == rank]


def _compared(map50: Difference | None = None, map50_95: Difference | None = None) -> dict[str, object]:
    row: dict[str, object] = {}
    for name, difference in (("dmAP50", map50), ("dmAP50-95", map50_95)):
        d = difference or Difference(*[float("nan")] * 3)
        row |= {name: d.value, f"{name}_low": d.low, f"{name}_high": d.high}
        if name == "dmAP50":
            row["verdict"] = difference.verdict if difference else ""
    return row


def _mean(values: Iterable[float]) -> float:
    known = [value for value in values if not np.isnan(value)]
    return float(np.mean(known)) if known else float("nan")

"""Results of an evaluation, image by image, and the tables that are made of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from detection.cache import fingerprint
from detection.data.core import Dataset, Detections, Pixels, load_image
from detection.enhancers import Enhancer, Folder, enhanced_by
from detection.metrics.average_precision import RECALLS, Matches
from detection.metrics.bootstrap import Difference, Draws, paired_bootstrap
from detection.metrics.complexity import complexity
from detection.metrics.image_quality import Metric
from detection.timing import Cost

BASELINE = "raw"
"""The enhancer that the others are compared with."""


@dataclass(frozen=True)
class Record:
    """One image behind one enhancer, in front of one detector or of none.

    Attributes:
        sample: its number in the set's `samples`.
        enhancer: name.
        detector: name; empty where there is none, or but one, without a name.
        found: the detections, labels numbering the set's classes; empty where there is no detector.
        enhanced: cost of the enhancer when it was called; NaN for images that were enhanced already.
        detected: cost of the detector; NaN where there is none.
        quality: figures by the names of the metrics that could judge the image.
        pixels: the SHA-256 of the image before it was enhanced, and without a detector also of its reference.
        file: the enhanced image, where it was kept or was a file already; ``raw`` is never kept.
    """

    sample: int
    enhancer: str
    detector: str
    found: Detections
    enhanced: Cost
    detected: Cost
    quality: Mapping[str, float]
    pixels: str
    file: Path | None


@dataclass(frozen=True)
class Results:
    """Records of all images, and the tables that are made of them.

    Attributes:
        dataset: the set.
        enhancers: those that work, by name.
        detectors: their names; none where images were only restored.
        metrics: of image quality.
        records: one for each image without a fault, enhancer and detector, in this order.
        faults: the set's own and those of this run, one line each.
    """

    dataset: Dataset
    enhancers: Mapping[str, Enhancer | Folder]
    detectors: tuple[str, ...]
    metrics: tuple[Metric, ...]
    records: tuple[Record, ...]
    faults: tuple[str, ...]

    @cached_property
    def samples(self) -> tuple[int, ...]:
        """Numbers of the samples that count."""
        return tuple(dict.fromkeys(record.sample for record in self.records))

    @cached_property
    def matches(self) -> dict[tuple[str, str], Matches]:
        """Detections matched to the truth, by detector and enhancer, images in the order of `samples`.

        ``matches[detector, enhancer].coco[0][c].curves(once, slice(0, 1))[0]``, with ``once`` a column of ones,
        holds the precision-recall curve of class c at an IoU threshold of 0.50.
        """
        truth = [self.dataset.samples[number] for number in self.samples]
        return {
            (detector, enhancer): Matches.of(
                truth, [record.found for record in self._of(enhancer, detector)], len(self.dataset.classes)
            )
            for detector in self.detectors
            for enhancer in self.enhancers
        }

    def table(self, *, resamples: int = 1000, seed: int = 0) -> pd.DataFrame:
        """Return one row per detector, group of images and enhancer.

        The groups are the lights in the order they come, the places, and all together where there are several
        lights; without detectors the sets, and all together where they are of one kind, with references or without.

        Args:
            resamples: how many times the photographs are drawn anew for the intervals, see
                `detection.metrics.bootstrap.Draws`.
            seed: of those draws.

        Returns:
            With detectors: ``detector`` (where they have names), ``light``, ``place`` (where there are several),
            ``enhancer``; ``mAP50`` and ``mAP50-95`` in [0,1]; the mean of each of `metrics`; ``ms`` and
            ``detector_ms``, the mean time per image of enhancer and detector, and ``MB`` and ``detector_MB``, the
            highest memory meanwhile (see `detection.timing.timed`); ``images`` and ``boxes``; ``dmAP50``,
            ``dmAP50_low``, ``dmAP50_high``, the difference from ``raw`` with its 95 % interval, and ``verdict``:
            ``better``, ``worse`` or, if 0 is in the interval, ``within noise``, and without an interval ``too few
            images``, see `detection.metrics.bootstrap.ENOUGH_PHOTOGRAPHS`; ``dmAP50-95`` and its interval; then the
            rest of `Matches.summary`.

            Without: ``set``, ``enhancer``; the mean of each of `metrics` with its 95 % interval in ``…_low`` and
            ``…_high``; ``ms`` and ``MB``; ``Mparams`` and ``GFLOP``, see `detection.metrics.complexity`; ``images``.

            A mean is over the images that the metric could judge behind every enhancer; NaN where there is none.
            ``attrs["faults"]`` lists what was left out, ``attrs["used"]`` and ``attrs["of"]`` count images, those that
            the reader of the set left out among them.
        """
        rows = [
            row
            for detector in self.detectors or ("",)
            for group in self._groups()
            for row in self._rows(detector, *group, resamples, seed)
        ]
        table = pd.DataFrame(rows)
        if not self.detectors:
            table = table.rename(columns={"light": "set"})
        if not self.detectors or self.detectors == ("",):
            table = table.drop(columns="detector")
        if not self.detectors or not self._places():
            table = table.drop(columns="place")
        table.attrs = {
            "faults": list(self.faults),
            "used": len(self.samples),
            "of": len(self.dataset) + self.dataset.left_out,
        }
        return table

    def images(self) -> pd.DataFrame:
        """Return one row per detector, image and enhancer, for a closer look at the best and the worst.

        Returns:
            ``detector``, ``sample`` (its number in the set), ``name``, ``light``, ``place``, ``category``,
            ``enhancer``; ``AP50``, COCO's mAP50 of this image alone, NaN where there is nothing to find; each of
            `metrics`, NaN where it could not judge; ``ms``, ``MB``, ``detector_ms``; ``file``, the enhanced image, or
            None (see `Record`). The detections are in `records`, whose order the rows have.
        """
        alone = {key: dict(zip(self.samples, m.per_image(), strict=True)) for key, m in self.matches.items()}
        return pd.DataFrame(
            {
                "detector": record.detector,
                "sample": record.sample,
                "name": sample.name,
                "light": sample.light,
                "place": sample.place,
                "category": sample.category,
                "enhancer": record.enhancer,
                "AP50": alone[record.detector, record.enhancer][record.sample] if alone else float("nan"),
                **{metric.name: record.quality.get(metric.name, float("nan")) for metric in self.metrics},
                "ms": record.enhanced.ms,
                "MB": record.enhanced.mb,
                "detector_ms": record.detected.ms,
                "file": record.file,
            }
            for record in self.records
            for sample in [self.dataset.samples[record.sample]]
        )

    def precision_recall(self) -> pd.DataFrame:
        """Return the precision-recall curves at an IoU threshold of 0.50 over all images that count.

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
        """SHA-256 of the images that count, before they were enhanced, and of their labels or references.

        With detectors these are the labels, without detectors the references.
        """
        pixels = {record.sample: record.pixels for record in self.records}
        parts: list[str | bytes] = [" ".join(self.dataset.classes)] if self.detectors else []
        for number in self.samples:
            sample = self.dataset.samples[number]
            if self.detectors:
                parts += [f"{sample.name} {sample.light} {sample.place} {pixels[number]}"]
                parts += [sample.boxes.tobytes(), sample.labels.tobytes(), sample.crowd.tobytes()]
            else:
                parts += [f"{sample.name} {sample.light} {pixels[number]}"]
        return fingerprint(*parts)

    def enhanced(self, record: Record) -> Pixels:
        """Return what an enhancer made of an image, (H, W, 3) uint8 RGB; where it was not kept, it is made anew."""
        sample = self.dataset.samples[record.sample]
        if record.file is not None:
            return load_image(record.file, upright=sample.upright)
        return enhanced_by(record.enhancer, self.enhancers[record.enhancer], sample.load().copy(), sample)

    @cached_property
    def _quality(self) -> dict[tuple[str, str], NDArray[np.float64]]:
        """Values of `samples`, (S,), by enhancer and metric, NaN where one of the enhancers has none."""
        quality = {
            (enhancer, metric.name): np.array(
                [r.quality.get(metric.name, np.nan) for r in self._of(enhancer)]
            )
            for enhancer in self.enhancers
            for metric in self.metrics
        }
        for metric in self.metrics:
            unknown = np.any(
                [np.isnan(quality[enhancer, metric.name]) for enhancer in self.enhancers], axis=0
            )
            for enhancer in self.enhancers:
                quality[enhancer, metric.name][unknown] = np.nan
        return quality

    def _of(self, enhancer: str, detector: str | None = None) -> list[Record]:
        """Return the records of an enhancer in front of a detector, by default the first one."""
        title = next(iter(self.detectors), "") if detector is None else detector
        return [r for r in self.records if r.detector == title and r.enhancer == enhancer]

    def _places(self) -> list[str]:
        """Return the places to tell apart, if there are several."""
        places = {self.dataset.samples[number].place for number in self.samples}
        return sorted(places - {""}) if len(places) > 1 else []

    def _groups(self) -> Iterator[tuple[str, str, NDArray[np.int64]]]:
        """Yield light, place, and positions in `samples` of each group."""
        used = [self.dataset.samples[number] for number in self.samples]
        lights = list(dict.fromkeys(sample.light for sample in used))
        kinds = {sample.reference is None for sample in used}
        for light in lights:
            yield light, "all", np.flatnonzero([sample.light == light for sample in used])
        if self.detectors:
            any_light = "all" if len(lights) > 1 else lights[0]
            for place in self._places():
                yield any_light, place, np.flatnonzero([sample.place == place for sample in used])
        if len(lights) > 1 and (self.detectors or len(kinds) == 1):
            yield "all", "all", np.arange(len(used))

    def _rows(
        self, detector: str, light: str, place: str, chosen: NDArray[np.int64], resamples: int, seed: int
    ) -> Iterator[dict[str, object]]:
        """Yield the rows of one group."""
        samples = [self.dataset.samples[self.samples[i]] for i in chosen]
        scenes = [sample.scene for sample in samples]
        matches = (
            {name: self.matches[detector, name].among(chosen) for name in self.enhancers}
            if self.detectors
            else {}
        )
        differences = (
            paired_bootstrap(matches, BASELINE, scenes, resamples=resamples, seed=seed)
            if BASELINE in matches
            else {}
        )
        draws = None if self.detectors else Draws.of(scenes, resamples, seed)
        for name in self.enhancers:
            records = self._of(name, detector)
            records = [records[i] for i in chosen]
            row: dict[str, object] = {"detector": detector, "light": light, "place": place, "enhancer": name}
            scores = matches[name].summary(self.dataset.classes) if matches else {}
            row |= {key: scores.pop(key) for key in ("mAP50", "mAP50-95") if key in scores}
            for metric in self.metrics:
                values = self._quality[name, metric.name][chosen]
                known = ~np.isnan(values)
                row[metric.name] = _mean(values)
                if draws is not None:
                    low, high = draws.among(known).mean_interval(values[known])
                    row |= {f"{metric.name}_low": low, f"{metric.name}_high": high}
            row["ms"] = _mean(record.enhanced.ms for record in records)
            if matches:
                row["detector_ms"] = _mean(record.detected.ms for record in records)
            row["MB"] = max(record.enhanced.mb for record in records)
            if matches:
                row["detector_MB"] = max(record.detected.mb for record in records)
            else:
                row["Mparams"], row["GFLOP"] = self._complexity[name]
            row["images"] = len(records)
            if matches:
                row["boxes"] = sum(len(sample.boxes) for sample in samples)
                row |= _compared(*differences.get(name, ())) | scores
            yield row

    @cached_property
    def _complexity(self) -> dict[str, tuple[float, float]]:
        return {name: complexity(enhance) for name, enhance in self.enhancers.items()}


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

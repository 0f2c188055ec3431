"""How close enhanced images come to their references, or how natural they look without: a row per set and enhancer.

`restore` measures, image by image; `Restoration.table` is the table. The plain figures are the ones to quote: those
with GT-mean are of images that were first scaled to the brightness of their reference, which no user has.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from torch import nn
from tqdm import tqdm

from detection.cache import Cache, fingerprint
from detection.data.core import Dataset, Pixels, Sample, load_image
from detection.data.paired import is_jpeg
from detection.enhancers import Enhancer, Folder, enhancer, raw
from detection.faults import FaultError, blame
from detection.metrics.bootstrap import ENOUGH_PHOTOGRAPHS
from detection.metrics.complexity import complexity
from detection.metrics.image_quality import as_tensor, lpips, psnr, ssim
from detection.stream import Enhancing, ahead, working
from detection.timing import Cost
from glare import metrics
from glare.niqe import NIQE

GT_MEAN = " GT-mean"
"""Ends the names of the figures that use the reference's brightness, see `glare.metrics.gt_mean`."""
MEASURES = (*(name + end for name in ("PSNR", "SSIM", "LPIPS") for end in ("", GT_MEAN)), "NIQE")
"""The figures of an image, where there is what they need."""
SIDE = 256
"""Operations are counted on a square of so many pixels, as in the field's tables."""

OnImage = Callable[[Sample, Mapping[str, Pixels]], None]
"""Called with each sample and what every enhancer made of it."""


@dataclass(frozen=True)
class Record:
    """One image behind one enhancer.

    Attributes:
        sample: its number in the set's `samples`.
        enhancer: name.
        figures: those of `MEASURES` that there are.
        cost: what enhancing took when it was done; NaN for images that were enhanced already.
        file: the enhanced image, where it was kept or was a file already.
        pixels: the SHA-256 of the image before it was enhanced, and of its reference.
    """

    sample: int
    enhancer: str
    figures: Mapping[str, float]
    cost: Cost
    file: Path | None
    pixels: str


@dataclass(frozen=True)
class Restoration:
    """All that a table is made of.

    Attributes:
        dataset: the images.
        enhancers: by name.
        records: one for each image without a fault and enhancer, in this order.
        faults: the set's own and those of this run, one line each.
    """

    dataset: Dataset
    enhancers: Mapping[str, Enhancer | Folder]
    records: tuple[Record, ...]
    faults: tuple[str, ...]

    @cached_property
    def samples(self) -> tuple[Sample, ...]:
        """The images that count."""
        return tuple(self.dataset.samples[i] for i in dict.fromkeys(record.sample for record in self.records))

    @cached_property
    def measures(self) -> tuple[str, ...]:
        """Those of `MEASURES` that there are."""
        return tuple(name for name in MEASURES if any(name in record.figures for record in self.records))

    @cached_property
    def fingerprint(self) -> str:
        """The SHA-256 of the images that count, as the enhancers were given them, and of their references."""
        pixels = {record.sample: record.pixels for record in self.records}
        samples = self.dataset.samples
        return fingerprint(*(f"{samples[i].name} {samples[i].light} {each}" for i, each in pixels.items()))

    def images(self) -> pd.DataFrame:
        """One row per image and enhancer: ``set``, ``image``, ``enhancer``, the figures, ``ms``, ``MB``, ``file``."""
        return pd.DataFrame(
            {
                "set": self.dataset.samples[record.sample].light,
                "image": self.dataset.samples[record.sample].name,
                "enhancer": record.enhancer,
                **{name: record.figures.get(name, float("nan")) for name in self.measures},
                "ms": record.cost.ms,
                "MB": record.cost.mb,
                "file": record.file,
            }
            for record in self.records
        )

    def table(self, *, resamples: int = 1000, seed: int = 0) -> pd.DataFrame:
        """One row per set and enhancer, and where there are several sets of a kind, ``all`` of them together.

        Args:
            resamples: how many times the images are drawn anew for the intervals. Images with one reference are
                drawn together: they are one scene.
            seed: of those draws.

        Returns:
            ``set``, ``enhancer``; the mean of each of `measures`, NaN where there is none, with its 95 % interval in
            ``…_low`` and ``…_high``, NaN for less than `ENOUGH_PHOTOGRAPHS` scenes; ``ms``, the mean
            time per image, and ``MB``, the highest memory meanwhile (see
            `detection.timing.timed`); ``Mparams`` and ``GFLOP``, see `complexity`; ``images``.
        """
        images = self.images()
        images["scene"] = [_scene(self.dataset.samples[record.sample]) for record in self.records]
        prices = {name: complexity(enhance) for name, enhance in self.enhancers.items()}
        groups = list(images.groupby("set", sort=False))
        kinds = {sample.reference is None for sample in self.samples}
        if len(groups) > 1 and len(kinds) == 1:
            groups.append(("all", images))
        rows = []
        for name, group in groups:
            for enhancer_name, chosen in group.groupby("enhancer", sort=False):
                row: dict[str, object] = {"set": name, "enhancer": enhancer_name}
                # The same draws for all enhancers.
                low, high = _interval(chosen[list(self.measures)], chosen["scene"], resamples, seed)
                for measure in self.measures:
                    row[measure] = chosen[measure].mean(skipna=False)
                    row |= {f"{measure}_low": low[measure], f"{measure}_high": high[measure]}
                parameters, operations = prices[str(enhancer_name)]
                row |= {"ms": chosen["ms"].mean(), "MB": chosen["MB"].max()}
                row |= {"Mparams": parameters, "GFLOP": operations, "images": len(chosen)}
                rows.append(row)
        return pd.DataFrame(rows)


def restore(
    dataset: Dataset,
    enhancers: Mapping[str, Enhancer | Folder],
    *,
    gt_mean: bool = False,
    cache: Cache | None = None,
    lpips: nn.Module | None = None,
    progress: bool = False,
    on_image: OnImage | None = None,
) -> Restoration:
    """Enhance every image with every enhancer and measure it, on the 8 bits that would be stored.

    Where there is a reference: PSNR, SSIM and LPIPS against it; where there is none: NIQE. An image at which loading,
    an enhancer or a measure fails is listed as a fault and counts in no row, so all rows of a set are of the same
    images. An enhancer that fails on all it is tried on at the start is listed and left out.

    Args:
        dataset: see `detection.data.paired.read_test_sets` and `detection.darken`.
        enhancers: functions from (H, W, 3) uint8 RGB to the same, or folders, by the name of their row.
        gt_mean: add the figures with GT-mean beside the plain ones, and the row of ``gamma``, without which nobody
            can tell what they are worth.
        cache: where to keep, and look for, what enhancers made, if they have an ``identity``.
        lpips: `glare.metrics.LPIPS`, for a column of that name.
        progress: show a progress bar.
        on_image: called with each image and what every enhancer made of it.

    Raises:
        ValueError: if there is no image without a fault.
    """
    if gt_mean and "gamma" not in enhancers:
        enhancers = {**enhancers, "gamma": enhancer("gamma")}
    enhancers, failing = working(enhancers, dataset, progress)
    enhancing = Enhancing(cache)
    niqe = NIQE()
    records: list[Record] = []
    faults = [*dataset.faults, *failing]
    numbers = range(len(dataset))
    bar = tqdm(numbers, desc="enhance", unit="image", disable=None if progress else True)
    for number, (loading, go_on) in zip(bar, ahead(dataset, numbers), strict=True):
        sample = dataset.samples[number]
        of_image: list[Record] = []
        seen: dict[str, Pixels] = {}
        made: dict[str, tuple[Cost, Path | None]] = {}
        try:
            with blame(f"{sample.name} ({sample.light})"):
                image, reference = loading()
                with enhancing.keeping(go_on) as timed:
                    for name, enhance in enhancers.items():
                        with blame(f"enhancer `{name}`"):
                            if isinstance(enhance, Folder):
                                _check_lossless(enhance.find(sample.name, sample.light), sample)
                            seen[name], cost, file = enhancing(name, enhance, image, sample)
                            made[name] = cost, file
                    timed()
                    both = [image] if reference is None else [image, reference]
                    pixels = fingerprint(*(part for i in both for part in (str(i.shape), i.tobytes())))
                    for name, (cost, file) in made.items():
                        if reference is None:
                            with blame("NIQE"):
                                figures = {"NIQE": _naturalness(niqe, seen[name])}
                        else:
                            figures = _closeness(seen[name], reference, lpips, gt_mean)
                        of_image.append(Record(number, name, figures, cost, file, pixels))
        except FaultError as fault:
            faults.append(str(fault))
            bar.set_postfix(faults=len(faults))
            continue
        records += of_image
        if on_image:
            on_image(sample, seen)
    if not records:
        raise ValueError(
            "Expected at least one sound image and one enhancer but got none. " + "; ".join(faults)
        )
    return Restoration(dataset, dict(enhancers), tuple(records), tuple(faults))


def _closeness(
    enhanced: Pixels, reference: Pixels, network: nn.Module | None, gt_mean: bool
) -> dict[str, float]:
    measures: dict[str, Callable[[NDArray[Any], NDArray[Any]], float]] = {"PSNR": psnr, "SSIM": ssim}
    if network is not None:
        measures["LPIPS"] = partial(lpips, network=network)
    versions: dict[str, NDArray[Any]] = {"": enhanced}
    if gt_mean:
        aligned = metrics.gt_mean(as_tensor(enhanced), as_tensor(reference))
        versions[GT_MEAN] = aligned[0].permute(1, 2, 0).contiguous().numpy()
    figures: dict[str, float] = {}
    for name, measure in measures.items():
        with blame(name):
            figures |= {name + end: measure(image, reference) for end, image in versions.items()}
    return figures


def _naturalness(niqe: NIQE, enhanced: Pixels) -> float:
    value = float(niqe(as_tensor(enhanced)))
    if np.isnan(value):
        raise ValueError("less than two blocks of 96×96 have grain")
    return value


def _check_lossless(file: Path, sample: Sample) -> None:
    if sample.reference_path and is_jpeg(file) and not is_jpeg(sample.reference_path):
        raise ValueError(f"{file} is a JPEG, {sample.reference_path} is none")


def _scene(sample: Sample) -> str:
    """What tells photographs apart: darkened at several levels, or exposed several times, they have one reference."""
    return str(sample.reference_path or sample.path or sample.name)


def _interval(
    figures: pd.DataFrame, scenes: pd.Series, resamples: int, seed: int
) -> tuple[Mapping[str, float], Mapping[str, float]]:
    """The middle 95 % of the means over draws of scenes (Efron and Tibshirani, 1993); NaN for too few of them."""
    sums = figures.groupby(scenes.to_numpy(), sort=False).sum(min_count=1).to_numpy()
    sizes = figures.groupby(scenes.to_numpy(), sort=False).size().to_numpy()
    n = len(sums)
    if n < ENOUGH_PHOTOGRAPHS:
        nothing = dict.fromkeys(figures.columns, float("nan"))
        return nothing, nothing
    drawn = np.random.default_rng(seed).integers(n, size=(resamples, n))
    means = sums[drawn].sum(axis=1) / sizes[drawn].sum(axis=1)[:, None]
    with np.errstate(invalid="ignore"):  # the PSNR of equal images is infinite, and has no interval
        ends = np.quantile(means, [0.025, 0.975], axis=0)
    low, high = (dict(zip(figures.columns, end.tolist(), strict=True)) for end in ends)
    return low, high


def enhanced_image(restoration: Restoration, record: Record) -> Pixels | None:
    """Return what an enhancer made of an image, if it was kept: see `Record`."""
    if record.file is not None:
        return load_image(record.file)
    if restoration.enhancers[record.enhancer] is raw:
        return restoration.dataset.samples[record.sample].load()
    return None


def overview(table: pd.DataFrame) -> pd.DataFrame:
    """Return a table with each interval beside its mean in one column of text, as it is read."""
    decimals = {"PSNR": 2, "NIQE": 2}
    columns: dict[str, object] = {}
    for column in table:
        name = str(column)
        if name.endswith(("_low", "_high")):
            continue
        columns[name] = table[name]
        if f"{name}_low" in table:
            digits = decimals.get(name.split()[0], 3)
            rows = table[[name, f"{name}_low", f"{name}_high"]].to_numpy(dtype=np.float64)
            columns[name] = [_with_interval(mean, low, high, digits) for mean, low, high in rows.tolist()]
    return pd.DataFrame(columns)


def _with_interval(value: float, low: float, high: float, digits: int) -> str:
    if np.isnan(value):
        return ""
    return f"{value:.{digits}f}" + ("" if np.isnan(low) else f" [{low:.{digits}f}, {high:.{digits}f}]")

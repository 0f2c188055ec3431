"""Bootstrap: the 95 % interval of a result over other draws of the photographs.

Efron and Tibshirani, "An Introduction to the Bootstrap", 1993.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from detection.metrics.average_precision import Matches

ENOUGH_PHOTOGRAPHS = 10
"""Below, no interval is given: the bootstrap's is too narrow there, and would call chance an effect.

Of 1500 sets of numbers from a normal distribution it holds the true mean for 81 % where the sets are of 5, for 90 %
where they are of 10, and for 93 % where they are of 20; it should be 95 %.
"""


@dataclass(frozen=True)
class Draws:
    """Draws of the photographs with replacement, each of as many as there are.

    One that occurs in several images, as at several lights, is drawn with all of them: they are not independent.

    Attributes:
        photograph: (I,) the number of each image's photograph.
        counts: (I, 1 + R) how often each image is drawn; the first draw is the set itself, every image once.
    """

    photograph: NDArray[np.int64]
    counts: NDArray[np.int32]

    @classmethod
    def of(cls, photographs: Sequence[Hashable], resamples: int, seed: int) -> Draws:
        """Draw `resamples` times; `photographs`, (I,), names the photograph of each image."""
        names, number = np.unique(np.asarray(list(map(str, photographs))), return_inverse=True)
        rng = np.random.default_rng(seed)
        drawn = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), size=resamples).T
        counts = np.concatenate([np.ones((len(names), 1), int), drawn], axis=1).astype(np.int32)
        return cls(number, counts[number])

    def among(self, images: NDArray[np.bool_]) -> Draws:
        """Keep some of the images, (I,)."""
        return Draws(self.photograph[images], self.counts[images])

    def interval(self, values: NDArray[np.float64]) -> tuple[float, float]:
        """Return the middle 95 % of the values of the draws, (1 + R,), without the first, which is the set itself.

        Both ends are NaN where there are less than `ENOUGH_PHOTOGRAPHS`, or no value is known.
        """
        known = values[1:][~np.isnan(values[1:])]
        if len(np.unique(self.photograph)) < ENOUGH_PHOTOGRAPHS or not len(known):
            return float("nan"), float("nan")
        low, high = np.percentile(known, [2.5, 97.5])
        return float(low), float(high)

    def mean_interval(self, values: NDArray[np.float64]) -> tuple[float, float]:
        """Return the 95 % interval of the mean of the images' values, (I,).

        Both ends are NaN also where some are infinite, as the PSNR of equal images is.
        """
        if not len(values) or not np.isfinite(values).all():
            return float("nan"), float("nan")
        return self.interval(values @ self.counts / self.counts.sum(axis=0))


@dataclass(frozen=True)
class Difference:
    """A difference and its 95 % interval."""

    value: float
    low: float
    high: float

    @property
    def verdict(self) -> str:
        """``better`` or ``worse`` where the interval leaves out 0, otherwise ``within noise``.

        Without an interval ``too few images``, and nothing at all where there is no difference to judge.
        """
        if np.isnan(self.value):
            return ""
        if np.isnan(self.low):
            return "too few images"
        if self.low > 0:
            return "better"
        return "worse" if self.high < 0 else "within noise"


def paired_bootstrap(
    matches: Mapping[str, Matches],
    baseline: str,
    photographs: Sequence[Hashable],
    *,
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, tuple[Difference, Difference]]:
    """Return how much each differs from the baseline, with an interval by the same draws for all; see `Draws`.

    Args:
        matches: those of the baseline and of what is compared with it, on the same images.
        baseline: its key.
        photographs: (I,) of which photograph each image is.
        resamples: how many draws.
        seed: of the draws.

    Returns:
        For each but the baseline the differences in mAP50 and in mAP50-95; the interval is NaN to NaN where there
        are less than `ENOUGH_PHOTOGRAPHS`, or no resample.
    """
    draws = Draws.of(photographs, resamples, seed)
    maps = {name: one.resampled(draws.counts) for name, one in matches.items()}
    differences = {}
    for name in matches:
        if name != baseline:
            map50, map50_95 = (
                Difference(float(values[0]), *draws.interval(values))
                for values in maps[name] - maps[baseline]
            )
            differences[name] = map50, map50_95
    return differences

"""What becomes of one image: enhanced, or taken from the cache, timed, and compared with its reference."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np

from detection.cache import Cache, write_png
from detection.data.core import Dataset, Pixels, Sample
from detection.enhancers import Enhancer, Folder, check_enhanced, enhanced_by, raw
from detection.faults import FaultError, blame
from detection.timing import Cost, resident_mb, timed
from glare.tiles import give_back_memory

T = TypeVar("T")
Call = Callable[[], None]
Loading = Callable[[], tuple[Pixels, Pixels | None]]
_TRIED = 3
"""On how many images of a set an enhancer is tried before it is given up."""
_GROWTH = 64.0
"""By how many 10^6 bytes a run may grow before it gives memory back, which takes as long as a cheap enhancer."""


class Enhancing:
    """Enhance image after image, each once where there is a cache.

    Args:
        cache: where to keep, and look for, what enhancers made, if they have an ``identity``.
    """

    def __init__(self, cache: Cache | None) -> None:
        self.cache = cache
        self._warm: set[int] = set()
        self._unwritten: dict[Path, tuple[Pixels, Cost]] = {}

    def __call__(
        self, name: str, enhance: Enhancer | Folder, image: Pixels, sample: Sample
    ) -> tuple[Pixels, Cost, Path | None]:
        """Return what an enhancer makes of a sample's image, what that took, and its file if there is one.

        Raises:
            ValueError, OSError: see `enhanced_by`; and whatever the enhancer raises.
        """
        if isinstance(enhance, Folder):
            already = enhanced_by(name, enhance, image, sample)
            return already, Cost(float("nan"), float("nan")), enhance.find(sample.name, sample.light)
        if enhance is raw:
            return image.copy(), Cost(0.0, float("nan")), None

        def make() -> tuple[Pixels, Cost]:
            copy = image.copy()  # an enhancer that writes into its input must not reach the next one
            return timed(lambda: enhanced_by(name, enhance, copy, sample))

        identity: str | None = getattr(enhance, "identity", None)
        if self.cache is None or identity is None:
            return *make(), None
        return self.cache.enhanced(image, identity, make, self._unwritten)

    @contextmanager
    def keeping(self, go_on: Callable[[Call], Call]) -> Iterator[Call]:
        """Write the files of what is made of an image here, once nothing more of it is timed; `go_on` is of `ahead`.

        What was made of an image with a fault is kept too.

        Yields:
            What is to be called when nothing more is timed.

        Raises:
            FaultError: at the end, if a file cannot be written.
        """
        written: list[Call] = []

        def timed() -> None:
            written.append(go_on(self._write))

        try:
            yield timed
        finally:
            if not written:
                timed()
            with blame("cache"):
                written[0]()

    def _write(self) -> None:
        """Two threads may share the work."""
        while True:
            try:
                path, (pixels, cost) = self._unwritten.popitem()
            except KeyError:
                return
            write_png(path, pixels, cost)

    def warm_up(self, what: object, call: Callable[[], object]) -> None:
        """Kernels are chosen at the first call, which is no part of the timing, nor of the result."""
        if id(what) not in self._warm:
            self._warm.add(id(what))
            with suppress(Exception):
                call()


def working(
    enhancers: Mapping[str, Enhancer | Folder], dataset: Dataset, progress: bool = False
) -> tuple[dict[str, Enhancer | Folder], list[str]]:
    """Return the enhancers that work, and a line on each that does not: it must not cost the others their rows.

    Each is called on 64×64 pixels, which also loads its weights and chooses its kernels, no part of the timing; where
    it fails on those, as a network for one size does, on the first images of the set. Folders are taken as they are.

    Args:
        enhancers: by name.
        dataset: the set.
        progress: print the lines too.
    """
    kept = dict(enhancers)
    faults: list[str] = []
    for name, enhance in enhancers.items():
        if not isinstance(enhance, Folder) and (fault := _failure(name, enhance, dataset)):
            del kept[name]
            faults.append(fault)
            if progress:
                print(f"Fault: {fault}", flush=True)
    return kept, faults


def _failure(name: str, enhance: Enhancer, dataset: Dataset) -> str:
    """What an enhancer fails with; empty if there is something it does not fail on."""
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    first = ""
    for load in (lambda: noise, *(sample.load for sample in dataset.samples[:_TRIED])):
        try:
            with blame(f"enhancer `{name}` is left out, as it failed on all that it was tried on"):
                image = load()
                check_enhanced(name, image, enhance(image.copy()))
            return ""
        except FaultError as error:
            first = first or str(error)
    return first


def ahead(dataset: Dataset, numbers: Sequence[int]) -> Iterator[tuple[Loading, Callable[[Call], Call]]]:
    """Load image after image and its reference: the next one while the measures are taken of the one before.

    Not while an enhancer or a detector is timed, from which it would take a core. Of a photograph of 640×480 loading
    and darkening take as long as one call of the built-in detector (75 ms), and so does writing what four enhancers
    made of it: waiting for both every time would slow down a run of cheap enhancers; PSNR, SSIM and the picture of
    what was found take as long.

    Yields:
        What returns the image, or raises; and what is to be called when nothing more of this one is timed, with what
        there is to write: it loads the next image and writes that, beside whatever follows, and returns what helps
        with the writing and waits for it, or raises.
    """

    def load(number: int) -> tuple[Pixels, Pixels | None]:
        sample = dataset.samples[number]
        return sample.load(), sample.reference() if sample.reference else None

    coming: dict[int, Future[tuple[Pixels, Pixels | None]]] = {}
    with ThreadPoolExecutor(1) as thread:

        def start(place: int) -> None:
            if place < len(numbers) and place not in coming:
                coming[place] = thread.submit(load, numbers[place])

        def go_on(place: int, write: Call) -> Call:
            start(place)
            writing = thread.submit(write)

            def written() -> None:
                try:
                    write()
                finally:
                    if not writing.cancel():  # it waits for the loading where there is nothing left to write
                        writing.result()

            return written

        resident = 0.0
        for place in range(len(numbers)):
            start(place)
            yield coming.pop(place).result, partial(go_on, place + 1)
            if not resident_mb("VmRSS") <= resident + _GROWTH:
                give_back_memory()
                resident = resident_mb("VmRSS")

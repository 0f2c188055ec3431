"""The images of a set one after the other: read ahead and written behind while nothing is timed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from detection.cache import write_png
from detection.data.core import Dataset, Pixels
from detection.faults import blame
from detection.timing import Cost, resident_mb
from glare import memory

_GROWTH = 64.0
"""By how many 10^6 bytes a run may grow before it gives memory back, which takes as long as a cheap enhancer."""

Loaded = tuple[Pixels, Pixels | None]
"""An image and its reference, where there is one."""


class Stream:
    """Images of a set: a thread reads the next one and writes the results of this one beside the measures.

    The thread stands still while an enhancer or a detector is timed, since it would take a core from them. For a
    photograph of 640×480, loading and darkening take as long as one call of the built-in detector (75 ms), and so does
    writing the results of four enhancers. Waiting for both every time would slow down a run of cheap enhancers; PSNR,
    SSIM and the picture with its boxes take as long.

    An image passes through three states:

    - *timed*: from the start of `timing`. The thread rests, and `unwritten` grows.
    - *released*: after `release`. The thread reads the next image, then writes; the caller measures meanwhile.
    - *done*: at the end of `timing`, which has helped with the writing and waited for it.

    Args:
        dataset: the set.
        numbers: of its samples, in the order in which they are wanted.

    Attributes:
        unwritten: images to be written, and what they took, by their files; see `detection.cache.Cache.enhanced`.
    """

    def __init__(self, dataset: Dataset, numbers: Sequence[int]) -> None:
        self.unwritten: dict[Path, tuple[Pixels, Cost]] = {}
        self._dataset = dataset
        self._numbers = numbers
        self._place = 0
        self._coming: dict[int, Future[Loaded]] = {}
        self._writing: Future[None] | None = None

    def __iter__(self) -> Iterator[int]:
        """Yield the number of one sample after the other, each to be loaded by `load`."""
        resident = 0.0
        with ThreadPoolExecutor(1) as self._thread:
            for place, number in enumerate(self._numbers):
                self._place = place
                self._read(place)
                yield number
                if not resident_mb("VmRSS") <= resident + _GROWTH:
                    memory.give_back()
                    resident = resident_mb("VmRSS")

    def load(self) -> Loaded:
        """Return the image and its reference, or raise the error of reading them."""
        return self._coming.pop(self._place).result()

    @contextmanager
    def timing(self) -> Iterator[None]:
        """Keep the thread still for timed calls, until `release`; results of an image with a fault are written too.

        Raises:
            FaultError: at the end, if a file cannot be written.
        """
        self._writing = None
        try:
            yield
        finally:
            self.release()
            with blame("cache"):
                self._finish()

    def release(self) -> None:
        """Let the thread work: nothing more of this image is timed."""
        if self._writing is None:
            self._read(self._place + 1)
            self._writing = self._thread.submit(self._write)

    def _read(self, place: int) -> None:
        if place < len(self._numbers) and place not in self._coming:
            sample = self._dataset.samples[self._numbers[place]]
            self._coming[place] = self._thread.submit(
                lambda: (sample.load(), sample.reference() if sample.reference else None)
            )

    def _write(self) -> None:
        """Write everything that is unwritten; two threads may share the work."""
        while True:
            try:
                path, (pixels, cost) = self.unwritten.popitem()
            except KeyError:
                return
            write_png(path, pixels, cost)

    def _finish(self) -> None:
        assert self._writing is not None
        try:
            self._write()
        finally:
            if not self._writing.cancel():  # it waits for the reader when nothing is left to write
                self._writing.result()
